"""NaN and infinity wherever a file holds a number: they would spread into every pixel and gradient."""

import struct

import gsdata
from gsdata import forging
from gsdata.canonical import encode
from victim import attack, good_file

PLACE = -12345.678  # a float64 that the attacks replace
good = good_file(metadata={"user": [PLACE]}, recipe=gsdata.Recipe(lr=PLACE, mean=(PLACE,), std=(1.0,)))
header, sections = forging.take_apart(good)
BAD = {
    "NaN": b"\x7f\xf8",
    "a signalling NaN": b"\x7f\xf0\0\0\0\0\0\1",
    "infinity": b"\x7f\xf0",
    "-infinity": b"\xff\xf0",
}


def with_number(number: bytes, where: str) -> bytes:
    """The file with one number in its header replaced, which no canonical encoder would write."""
    changed = dict(header)
    if where == "background":
        changed["gaussians"] = header["gaussians"] | {"background": [PLACE]}
    elif where == "quantizers":
        one = header["quantizers"][0]
        changed["quantizers"] = [one | {"colors": ["uniform", PLACE, 1.0, 7]}]
    for key in ("metadata", "recipe"):
        if key != where:
            changed[key] = {} if key == "metadata" else {"value_space": "srgb-unit"}
    packed = encode(changed)
    old = struct.pack(">d", PLACE)
    assert old in packed
    return forging.put_together(packed.replace(old, number.ljust(8, b"\0")), sections)


attack(
    refused={
        f"{name} in {where}": with_number(number, where)
        for name, number in BAD.items()
        for where in ("quantizers", "background", "recipe", "metadata")
    }
)
