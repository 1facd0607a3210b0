"""The decoder of ``coder`` in Numba, one section at a time on one thread, with equal results."""

from __future__ import annotations

import numpy as np
from numba import njit, uint32, uint64
from numpy.typing import NDArray

from gsdata.rans.coder import MAX_LANE_BITS, Job
from gsdata.rans.model import TOTAL, sources_of


def decode(job: Job) -> tuple[NDArray[np.int64], int]:
    """Fill the planes of a section; the last states and the words used."""
    states = job.states.astype(np.uint64)
    # A damaged section may ask for words that it lacks: one step's worth of them is there, then decoding must stop, because
    # nothing here checks an index, and symbols that were not decoded may be anything.
    words = np.concatenate([job.words, np.zeros(1 << MAX_LANE_BITS, np.uint16)])
    sums = np.empty(job.layout.count, np.uint32)
    used = 0
    for number, model in enumerate(job.models):
        if used > len(job.words):
            break
        sources = sources_of(job.layout, number, model.sources)
        for i, source in enumerate(sources):
            _add(sums, job.planes[source], job.layout.planes[source].shift, i == 0)
        table = _table(model.frequencies)
        if sources:
            first = (TOTAL * model.lookup(job.layout, number)).astype(np.uint32)
            used = _plane(job.planes[number], states, words, used, len(job.words), table, sums, first)
        else:
            used = _simple_plane(job.planes[number], states, words, used, len(job.words), table)
    return states.astype(np.int64), int(used)


@njit(cache=True, nogil=True)
def _add(sums, plane, shift, clear):  # type: ignore[no-untyped-def]
    """Add a plane to the sums that decide the contexts."""
    for i in range(len(sums)):
        sums[i] = (0 if clear else sums[i]) + (plane[i] << shift)


@njit(cache=True, nogil=True)
def _table(frequencies):  # type: ignore[no-untyped-def]
    """For every slot of all tables: symbol, frequency - 1 and offset in 8, 12 and 12 bits."""
    tables, symbols = frequencies.shape
    found = np.empty(tables * TOTAL, np.uint32)
    at = 0
    for table in range(tables):
        for symbol in range(symbols):
            frequency = frequencies[table, symbol]
            head = uint32((symbol << 24) | ((frequency - 1) << 12))
            for offset in range(frequency):
                found[at + offset] = head + uint32(offset)
            at += frequency
    return found


@njit(cache=True, inline="always")
def _step(state, entry, word):  # type: ignore[no-untyped-def]
    """The next state, and whether it took the word."""
    state = (((entry >> uint64(12)) & uint64(4095)) + uint64(1)) * (state >> uint64(12)) + (entry & uint64(4095))
    short = state < uint64(65536)
    return ((state << uint64(16)) | word) if short else state, short


@njit(cache=True, nogil=True)
def _plane(out, states, words, used, available, table, sums, first):  # type: ignore[no-untyped-def]
    """Decode one plane with contexts; the words used so far."""
    count, lanes, at = len(out), len(states), uint64(used)  # unsigned: no test for a negative index
    for start in range(0, count, lanes):
        if at > uint64(available):
            break
        for lane in range(min(lanes, count - start)):
            state = states[lane]
            entry = uint64(table[first[sums[start + lane]] + (state & uint64(4095))])
            out[start + lane] = entry >> uint64(24)
            states[lane], short = _step(state, entry, uint64(words[at]))
            at += uint64(short)
    return at


@njit(cache=True, nogil=True)
def _simple_plane(out, states, words, used, available, table):  # type: ignore[no-untyped-def]
    """The same without contexts."""
    count, lanes, at = len(out), len(states), uint64(used)  # unsigned: no test for a negative index
    for start in range(0, count, lanes):
        if at > uint64(available):
            break
        for lane in range(min(lanes, count - start)):
            state = states[lane]
            entry = uint64(table[state & uint64(4095)])
            out[start + lane] = entry >> uint64(24)
            states[lane], short = _step(state, entry, uint64(words[at]))
            at += uint64(short)
    return at
