"""Writing: whole files or none, what cannot be written, and the largest that can."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gsdata
from files import same_content
from gsdata import writing
from gsdata.errors import LimitError
from gsdata.quantize import replace
from gsdata.recipe import Recipe
from gsdata.testing import make_codes


def test_save_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gsd"
    codes = make_codes(0, [3])
    assert gsdata.save(path, codes) == path.stat().st_size
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        gsdata.save(path, make_codes(1, [4]))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError):
        gsdata.save(path, codes, labels=[7, 7])
    assert list(tmp_path.iterdir()) == [path]


def test_save_obeys_umask_links_and_overwrite(tmp_path: Path) -> None:
    codes = make_codes(0, [3])
    old = os.umask(0o027)
    try:
        gsdata.save(tmp_path / "x.gsd", codes)
    finally:
        os.umask(old)
    assert (tmp_path / "x.gsd").stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileExistsError, match=r"x\.gsd"):
        gsdata.save(tmp_path / "x.gsd", codes, overwrite=False)
    gsdata.save(tmp_path / "y.gsd", codes, overwrite=False)
    (tmp_path / "link").symlink_to("x.gsd")
    size = gsdata.save(tmp_path / "link", make_codes(1, [30]))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x.gsd").stat().st_size == size
    stream = io.BytesIO()
    assert gsdata.save(stream, codes) == len(stream.getvalue())
    assert stream.getvalue() == (tmp_path / "y.gsd").read_bytes()
    with pytest.raises(FileNotFoundError):
        gsdata.save(tmp_path / "none" / "x.gsd", codes)


# --- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": [0]}, ValueError, "labels must be 2 integers"),
        ({"labels": [0.0, 1.0]}, ValueError, "labels must be 2 integers"),
        ({"labels": [0, -1]}, ValueError, "labels must lie in"),
        ({"labels": [0, 3], "classes": ("a", "b")}, ValueError, r"labels must lie in 0\.\.1"),
        ({"labels": [0, 65535]}, LimitError, "class_count"),
        ({"labels": [0, 1], "classes": ("a", "a")}, ValueError, "different names"),
        ({"labels": [0, 1], "classes": ("a", "b"), "class_count": 3}, ValueError, "class_count is 3"),
        ({"labels": [0, 1], "soft_labels": np.eye(2)}, ValueError, "not both"),
        ({"soft_labels": np.eye(3)}, ValueError, r"shape \(2, K\)"),
        ({"soft_labels": np.eye(2), "classes": ("a", "b", "c")}, ValueError, r"shape \(2, 3\)"),
        ({"soft_labels": np.zeros((2, 2))}, ValueError, "positive weight"),
        ({"soft_labels": -np.eye(2)}, ValueError, "non-negative"),
        ({"soft_labels": np.full((2, 2), np.nan)}, ValueError, "finite"),
        ({"soft_labels": [1.0, 1.0]}, ValueError, "shape"),
        ({"metadata": {"a": float("nan")}}, ValueError, "finite"),
        ({"metadata": {"a": np.float32(1)}}, ValueError, "float32"),
        ({"metadata": {"a": [[[[[[[[1]]]]]]]]}}, ValueError, "deeper"),
        ({"metadata": {"a": "x" * (4 << 20)}}, LimitError, "shorten the metadata"),
        ({"metadata": {"a": list(range(1 << 18))}}, LimitError, "values"),
        ({"recipe": Recipe(mean=(0.5,), std=(0.5,))}, ValueError, r"recipe\.mean"),
        ({"chunk_images": 0}, ValueError, "chunk_images"),
        ({"chunk_images": 1 << 17}, ValueError, "chunk_images"),
        ({"optional_sections": {"test.big": bytes((16 << 20) + 1)}}, LimitError, "limit"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gsdata.to_bytes(make_codes(0, [1, 2]), **options)


def test_bad_codes() -> None:
    with pytest.raises(LimitError, match="65536 Gaussians"):
        gsdata.to_bytes(make_codes(0, [65536]), level=1)
    with pytest.raises(LimitError, match="size"):
        gsdata.to_bytes(make_codes(0, [1], size=(1, 65537)))
    with pytest.raises(ValueError, match="background"):
        gsdata.to_bytes(make_codes(0, [1], background=(1e9, 0.0, 0.0)))
    with pytest.raises(ValueError, match="at least one quantiser set"):
        replace(make_codes(0, []), quantizers=())


def test_the_largest_image_and_the_most_classes() -> None:
    codes = make_codes(0, [65535, 1])
    file = gsdata.open(gsdata.to_bytes(codes, labels=[65534, 0], level=1))
    file.verify()
    assert same_content(file.codes(), codes)
    assert file.labels.tolist() == [65534, 0]
    weights = np.ones((2, 65535))
    weights[1, 1:] = 0
    soft = gsdata.open(gsdata.to_bytes(make_codes(0, [0, 0]), soft_labels=weights, level=1))
    soft.verify()
    assert soft.soft_labels is not None
    np.testing.assert_allclose(soft.soft_labels[0], 1 / 65535, rtol=1e-6)


def test_chunks_end_at_one_mebibyte() -> None:
    codes = make_codes(0, [3000] * 100)
    file = gsdata.open(gsdata.to_bytes(codes, level=1))
    sizes = [sum(s.raw_size for s in file.sections if s.chunk == c) for c in range(len(file.header.images))]
    assert len(sizes) == 3
    assert max(sizes) <= writing.CHUNK_RAW
    assert min(sizes[:-1]) > writing.CHUNK_RAW - 8 * 3000 - 2
    soft = gsdata.open(gsdata.to_bytes(make_codes(0, [0] * 100), soft_labels=np.ones((100, 30000)), level=1))
    assert soft.header.images.tolist() == [34, 34, 32]
