from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gsdata
from gsdata.quantize import fit_quantizers, quantize
from gsdata_tools import evaluate
from gsdata_tools.ddranking import NORMALIZATIONS, export
from gsdata_tools.train import Normalization

LABELS = np.array([2, 0, 1, 0, 1, 2])


def a_file(path: Path, **options: Any) -> gsdata.GsdFile:
    rng = np.random.default_rng(0)
    values = gsdata.Gaussians(
        rng.uniform(-1, 1, (30, 2)).astype(np.float32),
        rng.uniform(0.5, 1.5, (30, 3)).astype(np.float32),
        rng.random((30, 3)).astype(np.float32),
        np.full(6, 5),
        (8, 8),
    )
    labels = {} if "soft_labels" in options else {"labels": LABELS}
    gsdata.save(path, quantize(values, fit_quantizers(values)), classes=("a", "b", "c"), **labels, **options)
    return gsdata.open(path)


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("images", "labels", "lr")}


def test_tensors_are_ordered_by_class_normalised_and_load_safely(tmp_path: Path) -> None:
    unit = Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    with a_file(tmp_path / "x.gsd") as file:
        said = export(file, tmp_path / "out", normalization=unit, lr=0.03, size=(8, 8))
        expected = np.asarray(gsdata.render(file.gaussians()))[np.argsort(LABELS, kind="stable")]
    tensors = loaded(tmp_path / "out")
    assert tensors["images"].shape == (6, 3, 8, 8)
    assert tensors["images"].dtype == torch.float32
    back = tensors["images"] * torch.tensor(unit.std).view(3, 1, 1) + torch.tensor(unit.mean).view(3, 1, 1)
    np.testing.assert_allclose(back.numpy(), expected, atol=1e-5)
    assert tensors["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert tensors["labels"].dtype == torch.int64
    assert tensors["lr"].item() == pytest.approx(0.03)
    assert said == json.loads((tmp_path / "out" / "export.json").read_text())
    assert (said["images_per_class"], said["labels"]) == (2, "hard")
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "export.json",
        "images.pt",
        "labels.pt",
        "lr.pt",
    ]


def test_soft_labels_come_back_by_the_softmax_that_dd_ranking_applies(tmp_path: Path) -> None:
    soft = np.full((6, 3), 0.0, np.float32)
    soft[np.arange(6), LABELS] = 0.75
    soft[np.arange(6), (LABELS + 1) % 3] = 0.25
    with a_file(tmp_path / "x.gsd", soft_labels=soft) as file:
        assert file.soft_labels is not None
        export(file, tmp_path / "out", normalization=NORMALIZATIONS["cifar10"], lr=0.01, size=(16, 16))
        expected = file.soft_labels[np.argsort(LABELS, kind="stable")]
    tensors = loaded(tmp_path / "out")
    assert tensors["images"].shape == (6, 3, 16, 16)
    assert torch.isfinite(tensors["labels"]).all()
    np.testing.assert_allclose(tensors["labels"].softmax(dim=1).numpy(), expected, atol=1e-6)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = evaluate.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_exports_without_the_real_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = gsdata.Recipe(mean=(0.5,) * 3, std=(0.2,) * 3, lr=0.02)
    a_file(tmp_path / "x.gsd", recipe=recipe).close()
    words = (tmp_path / "x.gsd", "--data", "cifar10", "--export", tmp_path / "out", "--json")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["lr"] == 0.02
    assert said["normalization"]["std"] == [0.2023, 0.1994, 0.2010]
    code, out, err = run(capsys, *words)
    assert (code, out, "--force" in err) == (2, "", True)
    code, out, _ = run(capsys, *words[:2], "elsewhere", *words[3:], "--force", "--sizes", "16", "--lr", "0.5")
    said = json.loads(out)
    assert (code, said["lr"], said["images"]) == (0, 0.5, [6, 3, 16, 16])
    assert said["normalization"]["std"] == [0.2] * 3  # the file's own, for data that DD-Ranking does not know
    code, _, err = run(capsys, *words, "--force", "--sizes", "16,32")
    assert (code, "one size" in err) == (2, True)
    code, _, err = run(capsys, *words[:4], tmp_path / "no" / "out")
    assert (code, err.count("\n")) == (2, 1)
