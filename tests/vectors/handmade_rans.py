"""Sections of codec 2 by hand, symbol by symbol as FORMAT.md has it: for what gsdata's own encoder never writes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Tables = Sequence[Sequence[tuple[int, int]]]
"""For every context the (frequency, start) of every symbol."""
Plane = tuple[Sequence[tuple[int, int]], Tables]
"""(symbol, context) of every code, and the tables."""


def golomb(value: int, order: int) -> tuple[str, str]:
    """An Exp-Golomb code: its zeros and the one, and its low bits."""
    digits = f"{value + (1 << order):b}"
    return "0" * (len(digits) - 1 - order) + "1", digits[1:]


def differences(*log_weights: Sequence[int]) -> str:
    """The differences of tables of order 0: all unary parts, then all low bits."""
    codes = []
    for table in log_weights:
        steps = [b - a for a, b in zip([0, *table[:-1]], table, strict=True)]
        codes += [golomb(2 * step if step >= 0 else -2 * step - 1, 0) for step in steps]
    return "".join(unary for unary, _ in codes) + "".join(low for _, low in codes)


def model(bits: str, lane_bits: int = 0) -> bytes:
    """The first byte and a model, padded with zeros."""
    size = (len(bits) + 7) // 8
    return bytes([lane_bits]) + int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def coded(planes: Sequence[Plane], lanes: int = 1, start: int = 1 << 16) -> bytes:
    """States and words."""
    states, words = [start] * lanes, []
    for symbols, tables in reversed(planes):
        for i in range(len(symbols) - 1, -1, -1):
            symbol, context = symbols[i]
            frequency, first = tables[context][symbol]
            state = states[i % lanes]
            if state >= frequency << 20:
                words.append(state & 0xFFFF)
                state >>= 16
            states[i % lanes] = (state // frequency << 12) + state % frequency + first
    return struct.pack(f"<{lanes}I{len(words)}H", *states, *reversed(words))
