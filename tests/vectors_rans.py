"""Sections of codec 2 by hand, symbol by symbol as FORMAT.md has it: for what gsdata's own encoder never writes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Tables = Sequence[Sequence[tuple[int, int]]]
"""For every context the (frequency, start) of every symbol."""


def model(bits: str, lane_bits: int = 0) -> bytes:
    """The first byte and a model, padded with zeros."""
    size = (len(bits) + 7) // 8
    return bytes([lane_bits]) + int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def coded(symbols: Sequence[tuple[int, int]], tables: Tables, lanes: int = 1, start: int = 1 << 16) -> bytes:
    """States and words of one plane of (symbol, context)."""
    states, words = [start] * lanes, []
    for i in range(len(symbols) - 1, -1, -1):
        symbol, context = symbols[i]
        frequency, first = tables[context][symbol]
        state = states[i % lanes]
        if state >= frequency << 20:
            words.append(state & 0xFFFF)
            state >>= 16
        states[i % lanes] = (state // frequency << 12) + state % frequency + first
    return struct.pack(f"<{lanes}I{len(words)}H", *states, *reversed(words))
