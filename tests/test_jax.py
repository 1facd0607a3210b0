"""JAX takes what gsdata gives: by arrays, by tensors, and as the document does it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import gsdata
from gsdata.testing import make_codes

jax = pytest.importorskip("jax")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "digits.gsd"
    recipe = gsdata.Recipe(mean=(0.5,), std=(0.25,))
    codes = make_codes(0, [6] * 70, channels=1, size=(12, 12))
    gsdata.save(file, codes, labels=np.arange(70) % 3, classes=("a", "b", "c"), recipe=recipe)
    return file


def test_arrays_and_tensors_go_over_by_dlpack(path):
    images, labels = gsdata.to_numpy(path, dtype="float32")
    assert np.array_equal(np.asarray(jax.dlpack.from_dlpack(images)), images)
    assert np.asarray(jax.numpy.asarray(labels)).tolist() == labels.tolist()
    pytest.importorskip("torch")
    seen = []
    for batch, targets in gsdata.GaussianLoader(path, 32):
        x, y = jax.dlpack.from_dlpack(batch), jax.dlpack.from_dlpack(targets)
        assert x.shape[1:] == (1, 12, 12)
        seen.append((np.asarray(x), np.asarray(y)))
    np.testing.assert_allclose(np.concatenate([x for x, _ in seen])[:, 0], images[..., 0], atol=1e-6)
    assert np.concatenate([y for _, y in seen]).tolist() == labels.tolist()


def test_the_snippet_of_the_document_runs(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    text = (ROOT / "docs" / "interop.md").read_text()
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "jax" in block]
    names: dict[str, object] = {}
    exec(compile(snippet, "docs/interop.md", "exec"), names)
    assert names["images"].shape == (70, 12, 12, 1)
    assert names["x"].shape == (6, 1, 12, 12)
