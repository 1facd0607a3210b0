"""Codec 2, ``rans``: several streams of small codes in one section, each symbol coded by what came before it (FORMAT.md, "rANS").

``layout`` says what a section holds, ``model`` how its symbols are distributed, ``fitting`` chooses a model, ``coder`` is the coder in
NumPy, and ``compiled`` its decoder in Numba, which is used where Numba has been imported anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gsdata.errors import FormatError
from gsdata.rans import coder, fitting
from gsdata.rans.layout import Layout
from gsdata.rans.model import PROBABILITY_BITS, contexts, read_model, write_model

__all__ = ["Layout", "decode", "encode", "stream_bits"]


def encode(raw: bytes, layout: Layout, sources: Mapping[str, Sequence[tuple[str, ...]]]) -> bytes:
    """The stored bytes of a section.

    Args:
        raw: ``layout.raw_size`` bytes, at least one.
        layout: what the section holds.
        sources: for the name of a stream, sums of earlier streams that are tried as contexts.
    """
    planes = np.frombuffer(raw, np.uint8).reshape(-1, layout.count)
    fitted = fitting.fit_model(planes, layout, sources)
    model = write_model(fitted)
    return bytes([coder.lane_bits(layout.count)]) + model + coder.encode(planes, [m for _, m, _ in fitted], layout)


def decode(sections: Sequence[tuple[bytes, Layout, str]]) -> list[bytes]:
    """Raw bytes of sections, given as stored bytes, layout and a name for messages; together they are faster than one by one.

    Raises:
        FormatError: the first of them that is wrong.
    """
    return [job.planes.tobytes() for job in _decoded(sections)]


def stream_bits(data: bytes, layout: Layout, planes: NDArray[np.uint8]) -> list[float]:
    """Bits that each stream of a good section takes: of its symbols (-log2 of their stored probabilities) and of its model."""
    bits = [0.0] * len(layout.streams)
    for number, (plane, model) in enumerate(zip(layout.planes, read_model(data[1:], layout)[0], strict=True)):
        found = model.frequencies[contexts(model, layout, number, planes), planes[number]]
        bits[plane.stream] += float((PROBABILITY_BITS - np.log2(found)).sum()) + model.stored_bits
    return bits


def _decoded(sections: Sequence[tuple[bytes, Layout, str]]) -> list[coder.Job]:
    jobs = []
    for data, layout, where in sections:
        try:
            jobs.append(coder.open_job(data, layout))
        except FormatError as error:
            raise type(error)(f"{where}: rans: {error}") from None
    ends: dict[int, tuple[NDArray[np.int64], int]] = {}
    if "numba" in sys.modules:
        from gsdata.rans import compiled

        ends = {i: compiled.decode(job) for i, job in enumerate(jobs)}
    else:
        alike: dict[tuple[int, int], list[int]] = {}
        for i, job in enumerate(jobs):
            alike.setdefault((len(job.models), len(job.states)), []).append(i)
        for group in alike.values():
            ends |= zip(group, coder.decode([jobs[i] for i in group]), strict=True)
    for i, (job, (_, _, where)) in enumerate(zip(jobs, sections, strict=True)):
        try:
            coder.check_end(job, *ends[i])
        except FormatError as error:
            raise FormatError(f"{where}: rans: {error}") from None
    return jobs
