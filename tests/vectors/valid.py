"""The good files of spec/vectors: each shows one feature of the format alone, with the rules of FORMAT.md that it follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import zstandard

import gsdata
from gsdata.forging import frame, put_together, take_apart
from gsdata.quantize import Codes, Quantizer, QuantizerSet
from gsdata.rans.model import frequencies
from gsdata.recipe import Recipe
from gsdata.testing import SET, make_codes
from vectors.handmade_rans import Plane, coded, differences, golomb, model

NEWER_MINOR = 65535
"""Of no version that will be: it stands for newer minors."""
UNIT = Quantizer("uniform", -1.0, 1.0, 8)
WIDE = QuantizerSet(
    Quantizer("uniform", -1.5, 1.5, 11),
    Quantizer("log2", -3.0, 3.0, 9),
    Quantizer("uniform", -4.0, 4.0, 12),
    Quantizer("uniform", -0.25, 1.25, 10),
)


def example() -> bytes:
    """The worked example of FORMAT.md."""
    codes = Codes(
        means=np.array([[128, 127]], np.uint16),
        cholesky=np.array([[32, 64, 16]], np.uint16),
        colors=np.array([[127]], np.uint16),
        counts=np.array([1]),
        size=(2, 3),
        quantizers=(SET,),
    )
    return gsdata.to_bytes(codes, level=0)


def skewed(counts: list[int], sets: tuple[QuantizerSet, ...] = (SET,), **options: Any) -> Codes:
    """Codes with something for an entropy coder to find: l22 follows l11, l21 both of them, colours are mostly small."""
    codes = make_codes(5, counts, sets=sets, **options)
    rng = np.random.default_rng(6)
    top = 2 ** sets[0].scales.bits - 1
    near = codes.cholesky[:, 0] + np.floor(rng.random(len(codes.means)) * 3) - 1
    codes.cholesky[:, 2] = np.clip(near, 0, top)
    codes.cholesky[:, 1] = (codes.cholesky[:, 0] + codes.cholesky[:, 2]) // 2 + np.floor(rng.random(len(near)) * 4)
    codes.colors[:] = (codes.colors * rng.random(codes.colors.shape) ** 3).astype(np.uint16)
    return codes


def with_sections(data: bytes, changed: dict[str, tuple[int, bytes]], **header: Any) -> bytes:
    """A file with other stored bytes (and codecs) for sections of chunk 0, and other header values."""
    found, sections = take_apart(data)
    for section in sections:
        if section[3] == 0 and found["sections"][section[0]] in changed:
            section[1], section[4] = changed[found["sections"][section[0]]]
    return put_together(found | header, sections)


def out_of_order() -> bytes:
    data = gsdata.to_bytes(make_codes(0, [6], channels=1), level=0)
    found, sections = take_apart(data)
    raw = bytearray(sections[1][4])
    raw[1:6] = bytes(5)  # all at one x
    raw[6:12] = bytes([9, 3, 5, 1, 7, 2])  # y in no order
    return put_together(found, [sections[0], [*sections[1][:4], bytes(raw), len(raw)]])


def windowed(raw: bytes) -> bytes:
    """A frame that is no single segment: it has a window of its own and several blocks."""
    packer = zstandard.ZstdCompressor(level=3, write_checksum=False, write_content_size=True).compressobj(size=len(raw))
    half = len(raw) // 2
    return b"".join(
        [
            packer.compress(raw[:half]),
            packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
            packer.compress(raw[half:]),
            packer.flush(),
        ]
    )


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {"b": [1, None]}


def valid() -> dict[str, tuple[list[str], bytes]]:
    """Rules that a file shows, and the file, by name."""
    one, two = make_codes(0, [1], channels=1), make_codes(1, [3, 2], channels=1)
    found: dict[str, tuple[list[str], bytes]] = {
        "smallest": (["K1"], gsdata.to_bytes(make_codes(0, [], channels=1, size=(1, 1)), level=0)),
        "example": (["P1", "P2", "P3", "P4", "P5", "P6", "I1", "I2"], example()),
        "ragged": (["S4", "S11"], gsdata.to_bytes(make_codes(2, [3, 0, 1, 7], channels=1), level=0)),
        "no-gaussians": (["K2"], gsdata.to_bytes(make_codes(2, [0, 0], channels=1), level=0)),
        "out-of-order": (["S12"], out_of_order()),
        "non-square": (["G5"], gsdata.to_bytes(make_codes(3, [4], channels=1, size=(3, 200)), level=0)),
        "header-zstd": (["P4", "C2"], gsdata.to_bytes(two, metadata={"text": "again and " * 40})),
        "codec-stored": (["C1"], gsdata.to_bytes(make_codes(1, [3, 2]), level=0)),
        "codec-zstd": (["C2", "C3", "C4", "C5", "C6"], zstd_sections()),
        "codec-zstd-window": (["C2"], optional({"test.zeros": (1, windowed(bytes(range(200)) * 8), 1600)})),
        "codec-rans": (["A1", "A4", "A5", "A6", "A7", "A8", "C8", "C9"], gsdata.to_bytes(skewed([500, 0, 300]))),
        "codec-rans-two-planes": (["A2", "A3", "S11"], gsdata.to_bytes(skewed([400, 200], (WIDE,)))),
        "codec-rans-256-lanes": (["A1", "A2", "A3", "L18"], rans_256_lanes()),
        "codec-rans-one-lane": (["A9", "A10"], gsdata.to_bytes(skewed([40]))),
        "codec-rans-fewest-lanes": (["A12"], one_lane(2048)),
        "codec-rans-labels": (["S3"], rans_labels()),
        "labels-none-of-classes": (["H2"], gsdata.to_bytes(two, class_count=7, level=0)),
        "labels-names": (
            ["H3"],
            gsdata.to_bytes(two, labels=[1, 0], classes=("chat", "Füchse", "\N{FOX FACE}"), level=0),
        ),
        "labels-hard": (["H5", "S3"], gsdata.to_bytes(two, labels=[2, 0], class_count=3, level=0)),
        "labels-hard-one-class": (["S3"], gsdata.to_bytes(two, labels=[0, 0], class_count=1, level=0)),
        "labels-hard-two-planes": (["S3", "S11"], gsdata.to_bytes(two, labels=[256, 299], class_count=300, level=0)),
        "labels-dense": (["S8"], gsdata.to_bytes(two, soft_labels=[[1, 2, 4], [3, 0, 1]], level=0)),
        "labels-sparse": (["K4", "S5", "S6", "S7"], gsdata.to_bytes(two, soft_labels=sparse(20), level=0)),
        "labels-sparse-two-planes": (["S5", "S6"], gsdata.to_bytes(two, soft_labels=sparse(300), level=0)),
        "chunks": (
            ["T4", "T5", "T7"],
            gsdata.to_bytes(
                make_codes(4, [2, 0, 3, 1, 4], channels=1), labels=[0, 1, 2, 1, 0], chunk_images=2, level=0
            ),
        ),
        "chunks-quantizers": (
            ["K3", "Q1"],
            gsdata.to_bytes(make_codes(4, [2, 3, 1, 1], sets=(SET, WIDE), index=[0, 1, 1, 0]), level=0),
        ),
        "chunks-rans": (["A6", "T7"], gsdata.to_bytes(skewed([300, 200, 250]), chunk_images=1)),
        "metadata": (["F1", "F2", "F3", "F4", "F6", "H8"], gsdata.to_bytes(one, metadata=VALUES, level=0)),
        "provenance": (["H9"], gsdata.to_bytes(one, provenance={"seed": 7, "source": {"name": "none"}}, level=0)),
        "recipe": ([f"R{i}" for i in range(1, 14)], gsdata.to_bytes(make_codes(0, [1]), recipe=RECIPE, level=0)),
        "optional-section": (
            ["O1", "O2", "T8"],
            gsdata.to_bytes(one, optional_sections={"test.note": b"text", "a.b-c.d_e.1": b""}, level=0),
        ),
        "optional-section-without-images": (
            ["T8"],
            gsdata.to_bytes(make_codes(0, [], channels=1), optional_sections={"test.a": b"", "test.b": b"b"}, level=0),
        ),
        "optional-sections-64": (
            ["L7"],
            gsdata.to_bytes(one, optional_sections={f"test.n{i:02}": b"" for i in range(64)}),
        ),
        "limit-depth": (["L3"], gsdata.to_bytes(one, metadata=nested(7 - 1), level=0)),
        "limit-classes": (["L14"], gsdata.to_bytes(one, class_count=65535, level=0)),
        "limit-size": (["L15"], gsdata.to_bytes(make_codes(0, [1], channels=1, size=(65536, 65536)), level=0)),
        "limit-bits": (["L17"], gsdata.to_bytes(make_codes(0, [9], sets=(bits(12, 12, 12, 12),)), level=0)),
        "quantizer-bits-1": (
            ["Q2"],
            gsdata.to_bytes(make_codes(0, [9], channels=1, sets=(bits(1, 1, 1, 1),)), level=0),
        ),
        "quantizer-uniform-scales": (
            ["Q2", "Q3", "Q5"],
            gsdata.to_bytes(make_codes(0, [4], channels=1, sets=(uniform_scales(),)), level=0),
        ),
        "quantizer-log2-all": (
            ["Q2", "Q4"],
            gsdata.to_bytes(make_codes(0, [4], channels=1, sets=(log2_all(),)), level=0),
        ),
    }
    found["newer-minor"] = ["P2"], newer_minor()
    found["newer-minor-known-key"] = ["P2"], newer_minor_known_key()
    for channels in (1, 2, 3, 4):
        rules = ["G4", "S9"] if channels == 3 else ["G4", "S10"]
        found[f"channels-{channels}"] = rules, gsdata.to_bytes(make_codes(channels, [3, 2], channels=channels), level=0)
    for mode in ("box-normalized", "box", "none"):
        background = (0.25, -0.5)
        codes = make_codes(0, [2], channels=2, antialias=mode, background=background)
        found[f"antialias-{mode}"] = ["G1", "G2", "G3"], gsdata.to_bytes(codes, level=0)
    return found


VALUES = {
    "": [], "nil": None, "bools": [True, False], "text": "a" * 31 + "ü" + "b" * 300, "bytes": b"\x00\xff" * 200, "floats": [0.0, -0.0, 1e-300, 0.1],
    "integers": [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1],
    "list": list(range(16)), "map": {f"{i:02}": i for i in range(17)},
    "negative": [-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)],
}  # fmt: skip
RECIPE = Recipe(
    mean=(0.5, 0.25, 0.125), std=(0.5, 1.0, 2.0), clamp=True, zca={"source": "none", "epsilon": 0.1}, lr=0.01, momentum=0.9, weight_decay=0.0005,
    augment="dsa:color", model="ConvNet-D3", epochs=7, steps=300, batch_size=128,
)  # fmt: skip


def bits(means: int, scales: int, shear: int, colors: int) -> QuantizerSet:
    return QuantizerSet(
        Quantizer("uniform", -1.0, 1.0, means),
        Quantizer("log2", -2.0, 3.0, scales),
        Quantizer("uniform", -3.0, 3.0, shear),
        Quantizer("uniform", -0.1, 1.1, colors),
    )


def uniform_scales() -> QuantizerSet:
    return QuantizerSet(UNIT, Quantizer("uniform", 0.1, 4.1, 5), UNIT, Quantizer("uniform", -(2.0**24), 2.0**24, 8))


def log2_all() -> QuantizerSet:
    log2 = Quantizer("log2", -3.3, 1.7, 7)
    return QuantizerSet(log2, Quantizer("log2", -64.0, 64.0, 12), log2, log2)


def sparse(classes: int) -> np.ndarray:
    rows = np.zeros((2, classes))
    rows[0, [3, 7, classes - 1]], rows[1, 0] = (1, 2, 4), 1
    return rows


def optional(sections: dict[str, tuple[int, bytes, int]]) -> bytes:
    """A file with optional sections that are stored as given: codec, stored bytes, raw size."""
    names = dict.fromkeys(sections, b"")
    header, found = take_apart(gsdata.to_bytes(make_codes(0, [1], channels=1), optional_sections=names, level=0))
    for section in found[2:]:
        section[1], section[4], section[5] = sections[header["sections"][section[0]]]
    return put_together(header, found)


def newer_minor() -> bytes:
    """A file of a newer minor version, with keys that this one does not know in every map of the format's own."""
    header, sections = take_apart(
        gsdata.to_bytes(make_codes(0, [2], channels=1), optional_sections={"test.new": b"new"}, level=0)
    )
    for value in (
        header,
        header["chunks"],
        header["gaussians"],
        header["quantizers"][0],
        header["recipe"],
        header["transforms"],
    ):
        value["zz-new"] = [1, None]
    header["sections"][-1] = "gsd.new"
    return put_together(header, sections, minor=NEWER_MINOR)


def newer_minor_known_key() -> bytes:
    """A file of a newer minor with a key of this version where this version has none: chunks.labels without sparse labels."""
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [2], channels=1), labels=[1], class_count=2, level=0))
    header["chunks"]["labels"] = "seven"
    return put_together(header, sections, minor=NEWER_MINOR)


def zstd_sections() -> bytes:
    """Every section as zstd, the largest frame header too."""
    codes = make_codes(0, [3] * 60, channels=1)
    for values in (codes.means, codes.cholesky, codes.colors):
        values[:] &= 3
    data = gsdata.to_bytes(codes, labels=[0, 1] * 30, optional_sections={"test.zeros": bytes(70000)}, level=0)
    header, sections = take_apart(data)
    for section in sections:
        section[1], section[4] = 1, frame(section[4])
    return put_together(header, sections)


def rans_labels() -> bytes:
    """Labels of two bits in a tenth of a byte each, mostly one class."""
    labels = [0] * 300
    labels[7::20] = [3] * len(labels[7::20])
    labels[100], labels[200] = 1, 2
    return gsdata.to_bytes(make_codes(0, [0] * 300, channels=1), labels=labels, class_count=4)


def one_lane(images: int) -> bytes:
    """A file with so many labels of two classes on one lane, by a flat table."""
    labels = [int(i % 3 == 0) for i in range(images)]
    data = gsdata.to_bytes(
        make_codes(0, [0] * images, channels=1), labels=labels, class_count=2, chunk_images=images, level=0
    )
    plane: Plane = [(label, 0) for label in labels], [[(2048, 0), (2048, 2048)]]
    stored = model("0000" + "1") + coded([plane])
    return with_sections(data, {"counts": (1, frame(bytes(2 * images))), "labels": (2, stored)})


def rans_256_lanes() -> bytes:
    """1,200 labels below 300 in 256 lanes: a flat table, and a high plane that depends on its own low plane."""
    labels = [0] * 1200
    labels[3::50] = [(37 * i) % 300 for i in range(len(labels[3::50]))]
    low_weights, high_weights = [40] + [1] * 255, [5, 0]
    low, high = (
        [(f, sum(table[:i])) for i, f in enumerate(table)]
        for table in (frequencies(np.array([weights]))[0].tolist() for weights in (low_weights, high_weights))
    )
    # The low plane: no thresholds, a table of order 0. The high plane: one threshold at 44, flat below it.
    structure = "0000" + "000" + "0001" + "1" + "".join(golomb(44 - 1, 4)) + "1" + "000"
    planes: list[Plane] = [
        ([(label & 255, 0) for label in labels], [low]),
        ([(label >> 8, int(label & 255 >= 44)) for label in labels], [[(2048, 0), (2048, 2048)], high]),
    ]
    stored = model(structure + differences(low_weights, high_weights), 8) + coded(planes, 256)
    data = gsdata.to_bytes(
        make_codes(0, [0] * 1200, channels=1), labels=labels, class_count=300, chunk_images=1200, level=0
    )
    assert len(stored) < 2400
    return with_sections(data, {"counts": (1, frame(bytes(2400))), "labels": (2, stored)})


def pictures(**options: Any) -> bytes:
    """Two images: some Gaussians of every look, and none."""
    quantizers = QuantizerSet(
        Quantizer("uniform", -1.25, 1.25, 8),
        Quantizer("log2", -5.0, 4.0, 8),
        Quantizer("uniform", -6.0, 6.0, 8),
        Quantizer("uniform", -0.5, 1.0, 8),
    )
    return gsdata.to_bytes(make_codes(9, [12, 0], sets=(quantizers,), **options), level=0)


SIZES = [(6, 9), (12, 18), (5, 4)]
RENDERS: dict[str, tuple[list[str], bytes, list[tuple[int, int]]]] = {
    "box-normalized": (
        ["V1", "V2", "V3", "V4", "V5", "V6", "V7"],
        pictures(size=(6, 9), background=(0.5, 0.25, 0.0)),
        SIZES,
    ),
    "box": (["V3"], pictures(size=(6, 9), channels=1, antialias="box"), SIZES),
    "none": (["V3"], pictures(size=(6, 9), channels=2, antialias="none", background=(-0.25, 1.5)), SIZES),
    "large": (["V2", "V8"], pictures(size=(2, 160), channels=1), [(2, 160), (1, 320), (3, 40)]),
    "tiny": (["V1"], pictures(size=(1, 1), channels=4), [(1, 1), (3, 3), (2, 7)]),
}
