from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gsdata
from gsdata import arrays
from gsdata.testing import make_codes

ROOT = Path(__file__).resolve().parent.parent
LABELS = np.array([2, 0, 1, 0, 1, 2, 2, 0, 1])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_DECODED", 4)
    monkeypatch.setattr(arrays, "_BATCH_VALUES", 3 * 7 * 10 * 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "x.gsd"
    gsdata.save(file, make_codes(0, [4] * 9, size=(7, 10)), labels=LABELS, classes=("a", "b", "c"), chunk_images=5)
    return file


def expected(path: Path, dtype: str = "uint8", size: Any = None) -> np.ndarray:
    with gsdata.open(path) as file:
        return np.asarray(gsdata.render(file.gaussians(), size, dtype=dtype))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("size", [None, 5, (6, 3)])
def test_arrays_are_what_render_gives(dtype, layout, size, path):
    images, labels = gsdata.to_numpy(path, dtype=dtype, layout=layout, size=size)
    wanted = expected(path, dtype, size)
    assert images.dtype == dtype
    assert images.flags.c_contiguous
    assert images.flags.owndata
    assert np.array_equal(images if layout == "NCHW" else images.transpose(0, 3, 1, 2), wanted)
    assert (labels.dtype, labels.tolist()) == (np.int64, LABELS.tolist())


def test_every_source_gives_the_same(path):
    torch = pytest.importorskip("torch")
    wanted = expected(path).transpose(0, 2, 3, 1)
    with gsdata.open(path) as file, path.open("rb") as stream:
        gaussians = file.gaussians()
        sources = [str(path), path, path.read_bytes(), stream, io.BytesIO(path.read_bytes()), file]
        sources += [gsdata.GaussianDataset(path), gsdata.GaussianDataset(file, normalize=False, output="pil")]
        for source in sources:
            images, labels = gsdata.to_numpy(source)
            assert np.array_equal(images, wanted)
            assert labels.tolist() == LABELS.tolist()
        file.codes()  # a file of the caller's stays open
    for batch in (gaussians, gaussians.torch()):
        images, labels = gsdata.to_numpy(batch)
        assert np.array_equal(images, wanted)
        assert labels.tolist() == [-1] * 9
    assert torch.from_dlpack(gsdata.to_numpy(path)[0]).shape == (9, 7, 10, 3)


def test_a_data_set_brings_its_size(path):
    pytest.importorskip("torch")
    data = gsdata.GaussianDataset(path, size=(4, 5))
    assert gsdata.to_numpy(data)[0].shape == (9, 4, 5, 3)
    assert gsdata.to_numpy(data, size=3)[0].shape == (9, 3, 3, 3)
    data._resident = None  # as with files that are too large to be kept
    data.file = gsdata.open(path)
    assert np.array_equal(gsdata.to_numpy(data, indices=[8])[0][0], expected(path, size=(4, 5))[8].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["file", "gaussians"])
def test_indices(kind, path):
    with gsdata.open(path) as file:
        source = path if kind == "file" else file.gaussians()
    chosen = [3, -1, 3, 0, 7, 6]
    images, labels = gsdata.to_numpy(source, indices=chosen)
    assert np.array_equal(images, expected(path)[chosen].transpose(0, 2, 3, 1))
    if kind == "file":
        assert labels.tolist() == LABELS[chosen].tolist()
    assert gsdata.to_numpy(source, indices=[])[0].shape == (0, 7, 10, 3)
    for bad, error in (([9], IndexError), ([-10], IndexError), ([0.5], TypeError)):
        with pytest.raises(error):
            gsdata.to_numpy(source, indices=bad)


def test_soft_labels(path, tmp_path):
    one_hot = gsdata.to_numpy(path, labels="soft", indices=[0, 1])[1]
    assert one_hot.tolist() == [[0, 0, 1], [1, 0, 0]]
    weights = np.eye(3)[LABELS] * 3 + np.array([0.0, 1.0, 0.0])
    gsdata.save(tmp_path / "soft.gsd", make_codes(0, [4] * 9), soft_labels=weights)
    _, soft = gsdata.to_numpy(tmp_path / "soft.gsd", labels="soft")
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, weights / weights.sum(axis=1, keepdims=True), atol=0.01)
    assert gsdata.to_numpy(tmp_path / "soft.gsd")[1].tolist() == LABELS.tolist()


def test_what_cannot_be_met_is_one_line(path, tmp_path):
    gsdata.save(tmp_path / "none.gsd", make_codes(0, [4]))
    for options in ({"dtype": "int8"}, {"layout": "CHWN"}, {"labels": "none"}, {"size": 0}):
        with pytest.raises(ValueError):
            gsdata.to_numpy(path, **options)
    with pytest.raises(ValueError, match="this file has none"):
        gsdata.to_numpy(tmp_path / "none.gsd", labels="soft")
    with pytest.raises(ValueError, match="Gaussians have none"):
        gsdata.to_numpy(make_codes(0, [4]).dequantize(), labels="soft")
    assert gsdata.to_numpy(tmp_path / "none.gsd")[1].tolist() == [-1]
    (tmp_path / "bad.gsd").write_bytes(b"junk")
    with pytest.raises(gsdata.GsdError):
        gsdata.to_numpy(tmp_path / "bad.gsd")
    with pytest.raises(FileNotFoundError):
        gsdata.to_numpy(tmp_path / "no.gsd")


def test_no_torch_is_loaded(path):
    code = "import sys, gsdata; print(gsdata.to_numpy(sys.argv[1])[0].shape, 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout == "(9, 7, 10, 3) False\n"
