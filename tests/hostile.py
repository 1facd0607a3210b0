"""What tests of damaged and hostile files share: small good files to start from, and what every reading of another must keep to."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import gsdata
from gsdata.errors import GsdError
from gsdata.forging import take_apart
from gsdata.testing import make_codes

MIB = 1 << 20


def read_everything(data: bytes) -> gsdata.GsdFile:
    file = gsdata.open(data)
    file.verify()
    return file


def small_file(**options: Any) -> bytes:
    """Two chunks; stored, zstd and rans sections; hard labels; an optional section."""
    codes = make_codes(0, [2, 0, 30], size=(5, 7))
    codes.colors[:] &= 1  # so that some sections shrink
    options = {"labels": [0, 2, 1], "classes": ("a", "b", "c"), "chunk_images": 2} | options
    return gsdata.to_bytes(codes, optional_sections={"test.note": b"note" * 20}, **options)


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MIB:.1f} MiB allocated"


def one_line(error: GsdError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


def good_or_refused(data: bytes) -> gsdata.GsdFile | None:
    with at_most(64 * MIB):
        try:
            file = read_everything(data)
        except GsdError as error:
            one_line(error)
            return None
        assert file.byte_table().total == len(data)
        assert file.codes().num_gaussians == file.gaussian_count
        assert np.isfinite(file.gaussians().colors).all()
        assert len(file.labels) == file.images
        _ = file.soft_labels, file.content_id, file.sha256, file.recipe, repr(file)
    return file


HEADERS = [
    take_apart(small_file()),
    take_apart(small_file(labels=None, soft_labels=np.eye(3))),
    take_apart(small_file(labels=None, soft_labels=np.eye(3) + 1)),
]
"""Header and sections of files with hard, sparse and dense labels."""
