"""zstd frames whose header says something else, field by field (RFC 8878, 3.1.1.1)."""

from __future__ import annotations

import random
import struct

from gsdata.container import MAX_WINDOW

_SIZES = {0: 0, 1: 2, 2: 4, 3: 8}  # bytes of the content size by the two highest bits of the descriptor


def changed(frame: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """Another header before the blocks of an encoder's frame of a known content size; and whether decoders must agree on it.

    They need not where the size or the window is less than what the blocks hold.
    """
    descriptor = frame[4]
    single, at = bool(descriptor & 0x20), 5
    at += not single
    width = _SIZES[descriptor >> 6] or int(single)
    content = int.from_bytes(frame[at : at + width], "little") + (256 if width == 2 else 0)
    blocks, size = frame[at + width :], content
    single, low, agreed = rng.random() < 0.3, 0, True
    what = rng.randrange(6)
    if what == 0:
        size, agreed = max(0, content + rng.choice([-256, -1, 1, 256, 1 << 24, 1 << 40])), False
    elif what == 1:
        low, agreed = 1 << rng.randrange(5), False  # a dictionary, a checksum, or a bit without a use
    window = rng.choice([0, 8, 56, 57, rng.randrange(256)]) if what < 4 else rng.randrange(105, 256)
    width = rng.choice(
        [w for w in (1, 2, 4, 8) if (1 if single or w > 1 else 0) and size - 256 * (w == 2) in range(256**w)] or [8]
    )
    tag = {1: 0, 2: 1, 4: 2, 8: 3}[width] << 6 | single << 5 | low
    stored = (size - 256 * (width == 2)).to_bytes(width, "little")
    if not single and rng.random() < 0.05:
        tag, stored = low, b""  # no content size
    exponent = 1 << (10 + (window >> 3))
    room = exponent + exponent // 8 * (window & 7)
    agreed = agreed and (single or room >= content or room > MAX_WINDOW)
    return frame[:4] + struct.pack("B", tag) + (b"" if single else bytes([window])) + stored + blocks, agreed
