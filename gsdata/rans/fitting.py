"""Choosing the model of a section: contexts, thresholds and log-weights by what they cost in bits, the model's own bits included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gsdata.rans.layout import Layout, Plane
from gsdata.rans.model import (
    MAX_LOG_WEIGHT,
    MAX_THRESHOLDS,
    PROBABILITY_BITS,
    THRESHOLD_ORDER,
    WEIGHTS,
    PlaneModel,
    difference_bits,
    frequencies,
    zigzag,
)

_NONE = np.zeros(0, np.int64)
Tables = list[NDArray[np.int64] | None]
_FINEST = MAX_THRESHOLDS + 1
"""Bins of about equal population that contexts are put together from."""


def fit_model(
    planes: NDArray[np.uint8], layout: Layout, contexts: Mapping[str, Sequence[tuple[str, ...]]]
) -> list[tuple[Plane, PlaneModel, Tables]]:
    """The cheapest model that was found for each plane.

    Args:
        planes: (planes, count) symbols.
        layout: what the section holds.
        contexts: for a stream, which sums of earlier streams to try as its contexts, beside none.
    """
    number = {name: i for i, (name, _) in enumerate(layout.streams)}
    models = []
    for index, (plane, symbols) in enumerate(zip(layout.planes, planes, strict=True)):
        tries = [
            tuple(number[name] for name in sources) for sources in contexts.get(layout.streams[plane.stream][0], ())
        ]
        if plane.shift:
            tries.append((plane.stream,))
        best = _fit_plane(symbols, plane, (), _NONE)
        for sources in tries:
            sums = PlaneModel(sources, _NONE, _NONE).sums(layout, index, planes)
            best = min(best, _fit_plane(symbols, plane, sources, sums), key=lambda fitted: fitted[0])
        models.append((plane, best[1], best[2]))
    return models


def _fit_plane(
    symbols: NDArray[np.uint8], plane: Plane, sources: tuple[int, ...], sums: NDArray[np.int64]
) -> tuple[float, PlaneModel, Tables]:
    """Bits and model of one plane with contexts from given sums: the best way to join neighbouring bins of them."""
    alphabet = 2**plane.bits
    cuts, keys = _NONE, symbols
    if sources:
        ordered = np.sort(sums)
        cuts = np.unique(ordered[len(ordered) * np.arange(1, _FINEST) // _FINEST])
        cuts = cuts[cuts > ordered[0]]
        keys = np.searchsorted(cuts, sums, side="right") * alphabet + symbols
    bins = len(cuts) + 1
    counts = np.bincount(keys, minlength=bins * alphabet).reshape(bins, alphabet)
    total = np.concatenate([np.zeros((1, alphabet), np.int64), np.cumsum(counts, axis=0)])
    first, last = np.triu_indices(bins + 1, 1)
    costs, flat = _table_costs(total[last] - total[first], plane.bits)
    # cheapest[i]: bits of the bins below i, the last table of them beginning at bin came_from[i].
    cheapest, came_from = np.zeros(bins + 1), np.zeros(bins + 1, np.int64)
    for end in range(1, bins + 1):
        ways = last == end
        sum_of = cheapest[first[ways]] + costs[ways]
        chosen = int(sum_of.argmin())
        cheapest[end], came_from[end] = sum_of[chosen], first[ways][chosen]
    edges = [bins]
    while edges[0]:
        edges.insert(0, int(came_from[edges[0]]))
    thresholds = cuts[np.array(edges[1:-1], np.int64) - 1]
    tables: Tables = []
    for begin, end in pairwise(edges):
        alike = flat[(first == begin) & (last == end)][0]
        tables.append(None if alike else _smooth(total[end] - total[begin]))
    found = np.stack(
        [
            np.full(alphabet, (1 << PROBABILITY_BITS) // alphabet) if table is None else frequencies(table[None])[0]
            for table in tables
        ]
    )
    model = PlaneModel(sources if len(thresholds) else (), thresholds, found)
    gaps = np.diff(thresholds, prepend=0) - 1 + (1 << THRESHOLD_ORDER)
    structure = 4 + len(thresholds) * plane.stream + sum(2 * int(gap).bit_length() - 5 for gap in gaps)
    return float(cheapest[bins]) + structure, model, tables


def _table_costs(counts: NDArray[np.int64], bits: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Bits of (tables, symbols) counts, each coded with a table of its own, and which of them are better off without one."""
    log_weights = _nearest(counts)
    cost = PROBABILITY_BITS - np.log2(np.maximum(frequencies(log_weights), 1))
    own = (counts * cost).sum(axis=1) + 3 + 0.8 * difference_bits(zigzag(np.diff(log_weights, prepend=0))).min(axis=1)
    alike = counts.sum(axis=1) * float(bits) + 1
    return np.minimum(own, alike), alike <= own


def _nearest(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(tables, symbols) log-weights that are about proportional to the counts; 0 exactly where the count is."""
    scaled = counts * (_TOP / np.maximum(counts.max(axis=1, keepdims=True), 1))
    nearest: NDArray[np.int64] = np.clip(np.searchsorted(_MIDDLES, scaled), 1, MAX_LOG_WEIGHT)
    nearest[counts == 0] = 0
    nearest[counts.sum(axis=1) == 0, 0] = 1
    return nearest


_TOP = 4096.0  # weight of the most frequent symbol
_MIDDLES = np.concatenate([[0.0], np.sqrt(WEIGHTS[1:-1] * WEIGHTS[2:])])


def _smooth(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(symbols,) log-weights that trade coded bits against the bits of their own differences (the Viterbi algorithm).

    The weights' sum S is in every symbol's cost, n log2 S; it is replaced by its tangent at the sum of the nearest weights.
    """
    nearest = _nearest(counts[None])
    order = int(difference_bits(zigzag(np.diff(nearest, prepend=0)))[0].argmin())
    price = counts.sum() / (np.log(2.0) * WEIGHTS[nearest].sum())
    bits = price * WEIGHTS - counts[:, None] * np.log2(np.maximum(WEIGHTS, 1))  # (symbols, log-weights)
    bits[counts > 0, 0] = np.inf  # weight 0 cannot be coded
    steps = difference_bits(zigzag(_LEVELS - _LEVELS[:, None]).reshape(-1, 1))[:, order].reshape(len(_LEVELS), -1)
    cost, came_from = bits[0] + steps[0], []
    for row in bits[1:]:
        ways = cost[:, None] + steps
        came_from.append(ways.argmin(axis=0))
        cost = row + ways[came_from[-1], _LEVELS]
    path = [int(cost.argmin())]
    for best in reversed(came_from):
        path.append(int(best[path[-1]]))
    return np.array(path[::-1], np.int64)


_LEVELS = np.arange(MAX_LOG_WEIGHT + 1)
