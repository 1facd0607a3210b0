"""Codec 2 (FORMAT.md, "rANS"), one symbol at a time."""

import struct
from collections.abc import Iterator

from errors import LimitError, need


def rans(data: bytes, streams: list[tuple[int, int]], at: int) -> bytes:
    """Raw bytes of a section of these (bits, codes), which begins at byte `at` of the file."""
    bits, position = "".join(f"{byte:08b}" for byte in data[1:]), 0

    def take(n: int) -> int:
        nonlocal position
        need(position + n <= len(bits), at, "the model ends early")
        position += n
        return int(bits[position - n : position] or "0", 2)

    def zeros() -> int:
        one = bits.find("1", position)
        need(one >= 0, at, "the model ends early")
        length = one - position
        take(length + 1)
        return length

    def low_bits(n: int, order: int) -> int:
        return (1 << n) + take(n) - (1 << order)

    need(data, at, "no bytes")
    need(data[0] <= 8, at, "more than 2^8 lanes", LimitError)
    need(data[0] >= 7 or max(n for _, n in streams) <= 2048 << data[0], at, "too few lanes", LimitError)
    planes = [(s, shift, min(b - shift, 8)) for s, (b, _) in enumerate(streams) for shift in (0, 8) if b > shift]
    structure: list[tuple[list[int], list[int], list[int | None]]] = []
    for stream, shift, _ in planes:
        number, thresholds = take(4), [0]
        sources = [s for s in range(stream + (shift == 8)) if take(1)] if number else []
        need(sources or not number, at, "thresholds without a source")
        for _ in range(number):
            thresholds.append(thresholds[-1] + 1 + low_bits(min(zeros(), 13) + 4, 4))
            need(thresholds[-1] <= 65535, at, "a threshold above 65,535")
        structure.append((sources, thresholds[1:], [None if take(1) else take(2) for _ in range(number + 1)]))
    stored = [
        (order, 1 << width)
        for (_, _, width), (_, _, orders) in zip(planes, structure)
        for order in orders
        if order is not None
    ]
    orders = [order for order, symbols in stored for _ in range(symbols)]
    lengths = [zeros() + order for order in orders]
    need(max(lengths, default=0) <= 6, at, "a difference of more than 6 bits")
    numbers = iter([low_bits(n, order) for n, order in zip(lengths, orders)])
    tables = [[frequencies(1 << width, m, numbers, at) for m in s[2]] for (_, _, width), s in zip(planes, structure)]
    need(not take(-position % 8), at, "padding that is not 0")
    start, lanes = 1 + position // 8, 1 << data[0]
    need(len(data) >= start + 4 * lanes and (len(data) - start) % 2 == 0, at, "size of states and words")
    states = list(struct.unpack_from(f"<{lanes}I", data, start))
    need(min(states) >= 1 << 16, at, "a state below 2^16")
    words = iter(struct.unpack(f"<{(len(data) - start) // 2 - 2 * lanes}H", data[start + 4 * lanes :]))
    raw, codes = bytearray(), [[0] * n for _, n in streams]
    for (stream, shift, _), (sources, thresholds, _), by_context in zip(planes, structure, tables):
        symbols = bytearray()
        for i in range(len(codes[stream])):
            total, s = sum(codes[source][i] for source in sources), states[i % lanes]
            f, slot, symbol = by_context[sum(t <= total for t in thresholds)], s % 4096, 0
            while slot >= f[symbol]:
                slot, symbol = slot - f[symbol], symbol + 1
            s = f[symbol] * (s // 4096) + slot
            if s < 1 << 16:
                word = next(words, None)
                need(word is not None, at, "too few words")
                s = s << 16 | word
            states[i % lanes] = s
            symbols.append(symbol)
        codes[stream] = [code | symbol << shift for code, symbol in zip(codes[stream], symbols)]
        raw += symbols
    need(next(words, None) is None, at, "words are left")
    need(set(states) == {1 << 16}, at, "a state does not end at 2^16")
    return bytes(raw)


def frequencies(size: int, order: int | None, numbers: Iterator[int], at: int) -> list[int]:
    """One table: flat without an order, else from the next `size` stored numbers."""
    if order is None:
        return [4096 // size] * size
    q, weights = 0, []
    for _ in range(size):
        u = next(numbers)
        q += -(u + 1) // 2 if u % 2 else u // 2
        need(q >= 0, at, "a log-weight below 0")
        need(q <= 48, at, "a log-weight above 48", LimitError)
        weights.append((4 + (q - 1) % 4) << (q - 1) // 4 if q else 0)
    need(any(weights), at, "a table without symbols")
    room = 4096 - sum(w > 0 for w in weights)
    found = [1 + w * room // sum(weights) if w else 0 for w in weights]
    found[found.index(max(found))] += 4096 - sum(found)
    return found
