"""The coder itself in NumPy: interleaved range asymmetric numeral systems (FORMAT.md, "rANS"; J. Duda, 2013, arXiv:1311.2540).

A step handles one code of every lane. To spread the cost of a NumPy call, the decoder takes the lanes of many sections together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsdata.errors import FormatError, LimitError
from gsdata.rans.layout import Layout
from gsdata.rans.model import PROBABILITY_BITS, TOTAL, PlaneModel, contexts, read_model

LOW = 1 << 16
"""States lie in [LOW, LOW << 16)."""
MAX_LANE_BITS = 8
MAX_CODES_PER_LANE, ENOUGH_LANE_BITS = 2048, 7
"""What bounds the steps of a decoder that takes all lanes in one: the codes of a lane, unless there are 128 lanes or more."""
_WRITTEN_LANE_BITS, _CODES_PER_LANE = 7, 256
_BLOCK = 1 << 15


@dataclass(frozen=True, eq=False)
class Job:
    """One section to decode.

    Attributes:
        layout: what it holds.
        models: one for each byte plane.
        states: (lanes,) int64 where decoding starts.
        words: uint16 that the states take in.
        planes: (planes, count) uint8 that decoding fills.
    """

    layout: Layout
    models: list[PlaneModel]
    states: NDArray[np.int64]
    words: NDArray[np.uint16]
    planes: NDArray[np.uint8]


def open_job(data: bytes, layout: Layout) -> Job:
    """Check the stored bytes of a section up to its words.

    Raises:
        FormatError, LimitError: they do not fit the layout.
    """
    if not data:
        raise FormatError("no bytes at all")
    if data[0] > MAX_LANE_BITS:
        raise LimitError(f"2^{data[0]} lanes, the limit is 2^{MAX_LANE_BITS}")
    if layout.count > MAX_CODES_PER_LANE << data[0] and data[0] < ENOUGH_LANE_BITS:
        raise LimitError(f"2^{data[0]} lanes for {layout.count} codes, the limit is {MAX_CODES_PER_LANE} for each")
    models, size = read_model(data[1:], layout)
    start, end = 1 + size, 1 + size + (4 << data[0])
    if end > len(data) or (len(data) - end) % 2:
        raise FormatError(f"{len(data) - start} bytes after the model, expected {4 << data[0]} and an even number more")
    states = np.frombuffer(data[start:end], "<u4").astype(np.int64)
    if (states < LOW).any():
        raise FormatError(f"the state {int(states.min())}, expected {LOW} or more")
    planes = np.empty((len(models), layout.count), np.uint8)
    return Job(layout, models, states, np.frombuffer(data[end:], "<u2"), planes)


def check_end(job: Job, states: NDArray[np.int64], words: int) -> None:
    """Decoding undoes encoding: it must end in the states that encoding starts from, with no words left.

    Raises:
        FormatError: it does not.
    """
    if words != len(job.words) or (states != LOW).any():
        raise FormatError(f"the coded symbols use {words} words of {len(job.words)} and do not end as they must")


def lane_bits(count: int) -> int:
    """Binary logarithm of the number of lanes that a writer gives streams of ``count`` codes: each one costs about 2 bytes."""
    return max(0, min(_WRITTEN_LANE_BITS, (count // _CODES_PER_LANE).bit_length() - 1))


def encode(planes: NDArray[np.uint8], models: Sequence[PlaneModel], layout: Layout) -> bytes:
    """The bytes after the model: states, then words. ``planes`` are (planes, count) symbols."""
    lanes = 1 << lane_bits(layout.count)
    steps = -(-layout.count // lanes)
    frequency, start = np.full((len(models), steps * lanes), TOTAL), np.zeros((len(models), steps * lanes), np.int64)
    for number, model in enumerate(models):
        rows = contexts(models[number], layout, number, planes)
        first = np.cumsum(model.frequencies, axis=1) - model.frequencies
        frequency[number, : layout.count] = model.frequencies[rows, planes[number]]
        start[number, : layout.count] = first[rows, planes[number]]
    # Where a plane ends within a step, the certain symbol (frequency 4,096) leaves the other lanes as they are.
    frequency, start = frequency.reshape(-1, lanes), start.reshape(-1, lanes)
    limit = frequency << (32 - PROBABILITY_BITS)
    words, out = np.empty(frequency.shape, np.int64), np.empty(frequency.shape, bool)
    states, shift = np.full(lanes, LOW), np.empty(lanes, np.int64)
    for step in range(len(frequency) - 1, -1, -1):
        np.greater_equal(states, limit[step], out=out[step])
        words[step] = states
        np.multiply(out[step], 16, out=shift)
        states >>= shift
        quotient, rest = np.divmod(states, frequency[step])
        quotient <<= PROBABILITY_BITS
        quotient += rest
        states = np.add(quotient, start[step], out=quotient)
    return states.astype("<u4").tobytes() + (words[out] & 0xFFFF).astype("<u2").tobytes()


def decode(jobs: Sequence[Job]) -> list[tuple[NDArray[np.int64], int]]:
    """Fill the planes of sections that have equally many planes and lanes; the last states and the words used of each."""
    lanes, counts = len(jobs[0].states), [job.layout.count for job in jobs]
    shape = (len(jobs), lanes)
    states = np.stack([job.states for job in jobs])
    words = np.concatenate([*(job.words for job in jobs), np.zeros(1, np.uint16)])
    ends = np.cumsum([len(job.words) for job in jobs])
    starts = np.concatenate([[0], ends[:-1]])
    before = starts[:, None] - 1  # the word before the next one of each section
    steps = -(-max(counts) // lanes)
    block = max(1, _BLOCK // (len(jobs) * lanes))
    for number in range(len(jobs[0].models)):
        table, symbols, firsts = _tables([job.models[number] for job in jobs])
        lookups = [
            first + TOTAL * job.models[number].lookup(job.layout, number)
            for first, job in zip(firsts, jobs, strict=True)
        ]
        for step in range(0, steps, block):
            size = min(block, steps - step)
            # Where a section ends before the others, the last table leaves its lanes as they are.
            slots = np.full((size, *shape), len(table) - TOTAL)
            low = step * lanes
            for i, (job, lookup) in enumerate(zip(jobs, lookups, strict=True)):
                high = min(counts[i], low + size * lanes)
                if high > low:
                    rows = np.full(size * lanes, len(table) - TOTAL)
                    sums = job.models[number].sums(job.layout, number, job.planes[:, low:high])
                    rows[: high - low] = lookup.take(sums)
                    slots[:, i] = rows.reshape(size, lanes)
            before = _steps(states, slots, table, words, before)
            found = symbols.take(slots)
            for i, job in enumerate(jobs):
                high = min(counts[i], low + size * lanes)
                if high > low:
                    job.planes[number, low:high] = found[:, i].reshape(-1)[: high - low]
    used = before[:, 0] + 1 - starts
    return list(zip(states, used.tolist(), strict=True))


def _tables(models: Sequence[PlaneModel]) -> tuple[NDArray[np.int64], NDArray[np.uint8], list[int]]:
    """For every slot of all models' tables and one more that changes nothing: frequency x 4,096 + offset, and symbol."""
    still = np.array([[TOTAL]])
    table, symbols, firsts, first = [], [], [], 0
    slot = np.arange(TOTAL)
    for frequencies in [*(model.frequencies for model in models), still]:
        flat = frequencies.reshape(-1)
        starts = np.cumsum(flat) - flat
        offset = np.arange(TOTAL * len(frequencies)) - np.repeat(starts, flat)
        table.append((np.repeat(flat, flat) << PROBABILITY_BITS) + offset)
        symbols.append(np.repeat(np.tile(np.arange(frequencies.shape[1], dtype=np.uint8), len(frequencies)), flat))
        firsts.append(first)
        first += slot.size * len(frequencies)
    return np.concatenate(table), np.concatenate(symbols), firsts[:-1]


def _steps(
    states: NDArray[np.int64],
    slots: NDArray[np.int64],
    table: NDArray[np.int64],
    words: NDArray[np.uint16],
    before: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Decode ``len(slots)`` symbols of every lane, in place: ``slots`` come as first slots of tables and go as slots of symbols."""
    entry, frequency, places = np.empty_like(states), np.empty_like(states), np.empty_like(states)
    short = np.empty(states.shape, bool)
    flat_states, flat_short, flat_places = states.reshape(-1), short.reshape(-1), places.reshape(-1)
    for row in slots:
        np.bitwise_and(states, TOTAL - 1, out=entry)
        row += entry
        table.take(row, out=entry, mode="clip")
        np.right_shift(entry, PROBABILITY_BITS, out=frequency)
        entry &= TOTAL - 1
        states >>= PROBABILITY_BITS
        states *= frequency
        states += entry
        np.less(states, LOW, out=short)
        np.cumsum(short, axis=1, out=places)
        places += before
        before = places[:, -1:].copy()
        lanes = flat_short.nonzero()[0]
        # A damaged section may ask for more words than there are; the end is checked when all is decoded.
        taken = words.take(flat_places.take(lanes), mode="clip")
        flat_states[lanes] = (flat_states.take(lanes) << 16) | taken
    return before
