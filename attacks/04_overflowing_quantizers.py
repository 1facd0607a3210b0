"""Quantisers whose tables would hold infinities, equal values or garbage: huge and tiny ranges, wrong order, too many bits."""

from typing import Any

from gsdata import forging
from victim import attack, good_file

header, sections = forging.take_apart(good_file())


def with_quantizer(name: str, *value: Any) -> bytes:
    """The file with one quantiser replaced by [kind, low, high, bits]."""
    return forging.put_together(header | {"quantizers": [header["quantizers"][0] | {name: list(value)}]}, sections)


attack(
    refused={
        "values up to 2^1000": with_quantizer("scales", "log2", -1000.0, 1000.0, 6),
        "values up to 1e308": with_quantizer("means", "uniform", -1e308, 1e308, 8),
        "a range that is too wide for a difference": with_quantizer("means", "uniform", -1.7e308, 1.7e308, 8),
        "values that float32 rounds to the same": with_quantizer("means", "uniform", 1.0, 1.0 + 2.0**-24, 8),
        "an empty range": with_quantizer("means", "uniform", 1.0, 1.0, 8),
        "a range upside down": with_quantizer("means", "uniform", 1.0, -1.0, 8),
        "scales of zero": with_quantizer("scales", "uniform", 0.0, 1.0, 6),
        "scales below zero": with_quantizer("scales", "uniform", -1.0, 1.0, 6),
        "2^64 levels": with_quantizer("means", "uniform", -1.0, 1.0, 64),
        "2^(2^63) levels": with_quantizer("means", "uniform", -1.0, 1.0, 1 << 63),
        "no levels": with_quantizer("means", "uniform", -1.0, 1.0, 0),
        "an unknown kind": with_quantizer("means", "__import__('os').system('true')", -1.0, 1.0, 8),
        "257 sets": forging.put_together(header | {"quantizers": header["quantizers"] * 257}, sections),
    },
    harmless={"the widest range of log2": with_quantizer("scales", "log2", -64.0, 64.0, 6)},
)
