"""rANS sections whose model says something else: its fields are changed and written again, as a writer may or must not write them.

A model that can still be read codes the symbols again, so a good file with a strange model comes out. Where it cannot be read, the
states and words are those of the model before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gsdata import streams
from gsdata.errors import GsdError
from gsdata.rans import coder, fitting
from gsdata.rans.layout import Layout
from gsdata.rans.model import MAX_LOG_WEIGHT, MAX_THRESHOLDS, THRESHOLD_ORDER, PlaneModel, contexts, read_model, zigzag

Planes = NDArray[np.uint8]
_GAPS = (0, 1, 15, 255, 4095, 65533, 65534, 65535, 65536, 1 << 17, 1 << 21)
_DIFFERENCES = (0, 1, 2, 3, 7, 94, 95, 96, 97, 120, 126, 127, 128, 255)


@dataclass
class _Fields:
    """The stored fields of the model of one plane.

    Attributes:
        sources: a flag for every stream that may be one.
        gaps: the thresholds, as stored: differences less 1.
        tables: order of the code and zigzagged differences of each; None where it is flat.
    """

    sources: list[int]
    gaps: list[int]
    tables: list[tuple[int, list[int]] | None]


def coded(raw: bytes, base: bytes, layout: Layout, rng: random.Random) -> bytes:
    """The stored bytes of a section.

    Args:
        raw: its raw bytes; no code has more bits than the layout says.
        base: those of a section like it, whose model is taken where none is drawn.
        layout: what it holds.
        rng: where all choices come from.
    """
    planes = _planes(raw, layout)
    fields = [] if rng.random() < 0.3 else _fitted(base, layout)
    for number in range(len(fields), len(planes)):
        fields.append(_drawn(layout, number, rng))
    for number, one in enumerate(fields):
        _make_codable(one, layout, number, planes, rng)
    models = _models(fields, layout, planes)
    for _ in range(rng.choice([0, 1, 1, 2])):
        _change(rng.choice(fields), rng)
    model = bytearray(_written(fields))
    models = _models(fields, layout, planes) or models
    lanes, end = coder.lane_bits(layout.count), bytearray(coder.encode(planes, models, layout) if models else bytes(4))
    if rng.random() < 0.4:
        lanes = _other_end(lanes, model, end, rng)
    return bytes([lanes, *model, *end])


def _planes(raw: bytes, layout: Layout) -> Planes:
    return np.frombuffer(raw, np.uint8).reshape(-1, layout.count)


@lru_cache(maxsize=256)
def _fit(raw: bytes, layout: Layout) -> list[tuple[PlaneModel, fitting.Tables]]:
    return [(model, tables) for _, model, tables in fitting.fit_model(_planes(raw, layout), layout, streams.CONTEXTS)]


def _fitted(raw: bytes, layout: Layout) -> list[_Fields]:
    """The fields of the model that the writer would take."""
    fields = []
    for number, (model, tables) in enumerate(_fit(raw, layout)):
        flags = [int(stream in model.sources) for stream in range(_earlier(layout, number))]
        gaps = [gap - 1 for gap in np.diff(model.thresholds, prepend=0).tolist()]
        fields.append(_Fields(flags, gaps, [None if table is None else _table(table, 1) for table in tables]))
    return fields


def _drawn(layout: Layout, number: int, rng: random.Random) -> _Fields:
    """A model for one plane that fits nothing."""
    flags = [rng.randrange(2) for _ in range(_earlier(layout, number))]
    count = rng.choice([0, 0, 1, 2, MAX_THRESHOLDS]) if any(flags) else 0
    tables: list[tuple[int, list[int]] | None] = []
    for _ in range(count + 1):
        # Most symbols weigh as much as the one before: more differences would take more bytes than the symbols.
        weights = np.full(2 ** layout.planes[number].bits, rng.randint(1, MAX_LOG_WEIGHT))
        for _ in range(rng.choice([0, 1, 1, 2])):
            weights[rng.randrange(len(weights)) :] = rng.randint(0, MAX_LOG_WEIGHT)
        tables.append(None if rng.random() < 0.5 else _table(weights, rng.choice([0, 0, 0, 1, 2, 3])))
    return _Fields(flags, [rng.choice([0, 1, 5, 40]) for _ in range(count)], tables)


def _earlier(layout: Layout, number: int) -> int:
    """How many streams may be sources of a plane."""
    return layout.planes[number].stream + (layout.planes[number].shift > 0)


def _table(log_weights: NDArray[np.int64], order: int) -> tuple[int, list[int]]:
    return order, zigzag(np.diff(log_weights, prepend=0)).tolist()


def _make_codable(fields: _Fields, layout: Layout, number: int, planes: Planes, rng: random.Random) -> None:
    """Give every symbol that is there a weight in the table that codes it."""
    chosen = tuple(i for i, flag in enumerate(fields.sources) if flag)
    model = PlaneModel(chosen, np.cumsum([gap + 1 for gap in fields.gaps], dtype=np.int64), np.zeros((0, 0), np.int64))
    rows = contexts(model, layout, number, planes)
    for row, table in enumerate(fields.tables):
        if table is not None:
            numbers = np.array(table[1])
            weights = np.cumsum(np.where(numbers & 1, ~(numbers >> 1), numbers >> 1))
            used = np.unique(planes[number][rows == row])
            weights[used] = np.maximum(weights[used], 1)
            weights[0] = max(weights[0], weights.max() == 0)
            fields.tables[row] = _table(weights, table[0])


def _change(fields: _Fields, rng: random.Random) -> None:
    what, own = rng.randrange(8), [row for row, table in enumerate(fields.tables) if table is not None]
    row = rng.choice(own) if own else 0
    table = fields.tables[row]
    if what == 0 and fields.gaps:
        fields.sources = [0] * len(fields.sources)
    elif what == 1 and fields.sources:
        flag = rng.randrange(len(fields.sources))
        fields.sources[flag] ^= 1
    elif what == 2 and fields.gaps:
        fields.gaps[rng.randrange(len(fields.gaps))] = rng.choice(_GAPS)
    elif what == 3 and len(fields.gaps) < MAX_THRESHOLDS:
        fields.gaps.append(rng.choice(_GAPS))
        fields.tables.append(table)
    elif table is None:
        fields.tables[row] = (rng.randrange(4), [rng.choice(_DIFFERENCES[:5])] * rng.choice([4, 64, 128, 256]))
    elif what == 4:
        fields.tables[row] = rng.choice([None, (rng.randrange(4), table[1])])
    elif what == 5:
        fields.tables[row] = (table[0], [0] * len(table[1]))
    else:
        differences = list(table[1])
        differences[rng.randrange(len(differences))] = rng.choice(_DIFFERENCES)
        fields.tables[row] = (table[0], differences)


def _models(fields: list[_Fields], layout: Layout, planes: Planes) -> list[PlaneModel]:
    """The models as a reader has them; [] where it refuses them or they cannot code the symbols."""
    try:
        models, _ = read_model(_written(fields), layout)
    except GsdError:
        return []
    for number, model in enumerate(models):
        rows = contexts(model, layout, number, planes)
        if not model.frequencies[rows, planes[number]].all():
            return []
    return models


def _written(fields: list[_Fields]) -> bytes:
    structure, unary, low = [], [], []
    for one in fields:
        structure.append(f"{len(one.gaps):04b}")
        structure += [str(flag) for flag in one.sources if one.gaps]
        structure += [part for gap in one.gaps for part in _golomb(gap, THRESHOLD_ORDER)]
        for table in one.tables:
            structure.append("1" if table is None else f"0{table[0]:02b}")
            parts = [_golomb(difference, table[0]) for difference in table[1]] if table else []
            unary += [first for first, _ in parts]
            low += [rest for _, rest in parts]
    text = "".join([*structure, *unary, *low])
    size = (len(text) + 7) // 8
    return int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def _golomb(value: int, order: int) -> tuple[str, str]:
    """The two parts of an Exp-Golomb code: zeros and a one, and the low bits."""
    digits = f"{value + (1 << order):b}"
    return "0" * (len(digits) - 1 - order) + "1", digits[1:]


def _other_end(lanes: int, model: bytearray, end: bytearray, rng: random.Random) -> int:
    """Change what stands around the model: states, words and the padding, in place; returns the number of lanes' logarithm."""
    what = rng.choice([0, 0, 1, 2, 3, 4, 5, 6])
    if what == 0:
        lanes = rng.choice([0] * 12 + [*range(13), 255])
    elif what == 1:
        state = rng.choice([0, 1, (1 << 16) - 1, 1 << 16, rng.getrandbits(32), (1 << 32) - 1])
        at = 4 * rng.randrange(1 << lanes)
        end[at : at + 4] = state.to_bytes(4, "little")
    elif what == 2:
        end += rng.randbytes(rng.choice([1, 2, 2, 4]))
    elif what == 3:
        del end[-rng.choice([1, 2, 2, 4]) :]
    elif what == 4:
        at = rng.randrange(len(end) // 2) * 2
        end[at : at + 2] = rng.randbytes(2)
    elif what == 5:
        model[-1] |= 1
    else:
        del model[-1:]
    return lanes
