"""``gsd-eval``: its report, its options, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gsdata
from gsdata_tools import evaluation, train

from .stripes import CLASSES, SIDE, one_thread, result_of, run, write_gsd, write_images


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield from one_thread()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def gsd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gsd(tmp_path_factory.mktemp("file") / "stripes.gsd")


def test_a_file_trains_a_network_and_the_report_is_complete(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsdata_tools.baselines.QUALITIES", {"webp": (1, 60), "jpeg": (10,)})
    monkeypatch.setattr("gsdata_tools.baselines.PIXELS_PER_GAUSSIAN", (16,))
    out = tmp_path / "r.json"
    report = result_of(
        capsys, gsd, "--data", data, "--seeds", 2, "--steps", 15, "--baselines", "webp,random-gsd,jpeg", "-o", out
    )
    assert json.loads(out.read_text()) == report
    assert not out.with_suffix(".ckpt").exists()
    assert report["schema"] == "gsd-eval/1"
    assert report["file"] == str(gsd)
    assert report["bytes_total"] == gsd.stat().st_size
    with gsdata.open(gsd) as file:
        assert report["sha256"] == file.sha256
    assert (report["model"], report["seeds"], report["steps"], report["complete"]) == ("ConvNet-D2", 2, 15, True)
    assert report["epochs"] == pytest.approx(15 * 128 / 30, abs=0.01)
    assert report["protocol"]["augment"] == "crop_cutout"
    assert report["normalization"] == {"mean": [0.5] * 3, "std": [0.2] * 3}
    assert report["test"]["images"] == 45
    accuracy = report["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(accuracy["runs"]))
    assert accuracy["std"] == pytest.approx(np.std(accuracy["runs"], ddof=1))
    assert accuracy["mean"] > 90
    assert list(report["baselines"]) == ["webp", "random-gsd", "jpeg"]
    for name, found in report["baselines"].items():
        assert 0 < found["bytes_total"] <= report["bytes_total"], name
        assert len(found["accuracy"]["runs"]) == 2
        setting = "gaussians" if name == "random-gsd" else "quality"
        best = max(found["searched"], key=lambda entry: entry["validation_accuracy"])
        assert found[setting] == best[setting]
        assert {"images", "bytes"} < set(best)
        assert "harged" in found["note"]
    assert len(report["baselines"]["webp"]["searched"]) == 2


def test_same_seed_same_numbers_and_limit_is_class_balanced(
    data: Path, gsd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (gsd, "--data", data, "--seeds", 1, "--steps", 4, "--limit", 18)
    first, again = result_of(capsys, *words), result_of(capsys, *words)
    assert first == again
    assert first["test"]["images"] == 18
    assert first["accuracy"]["std"] is None
    other = result_of(capsys, *words, "--seed", 5)
    assert other["test"]["digest"] != first["test"]["digest"]
    balanced = evaluate_test_labels(data, 18)
    assert np.bincount(balanced).tolist() == [6, 6, 6]


def evaluate_test_labels(data: Path, limit: int) -> np.ndarray:
    from gsdata_tools.sources import load

    return load(str(data), split="test", limit=limit, balanced_seed=0).labels


def test_soft_labels_are_used_unless_hard_ones_are_asked_for(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = tmp_path / "soft.gsd"
    with gsdata.open(gsd) as file:
        weights = np.full((len(file), 3), 0.125, np.float32)
        weights[np.arange(len(file)), file.labels] = 0.75
        gsdata.save(soft, file.codes(), soft_labels=weights, classes=CLASSES)
    trained: list[torch.Tensor] = []
    real_train = train.train
    monkeypatch.setattr(
        evaluation, "train", lambda images, *a, **o: (trained.append(images.labels), real_train(images, *a, **o))[1]
    )
    words = ("--data", data, "--seeds", 1, "--steps", 1, "--model", "ConvNet-D1")
    kinds = [result_of(capsys, soft, *words, *more)["labels"] for more in ((), ("--labels", "hard"))]
    assert kinds == ["soft", "hard"]
    assert (trained[0].shape, trained[0].dtype) == ((30, 3), torch.float32)
    assert (trained[1].shape, trained[1].dtype) == ((30,), torch.int64)
    assert torch.equal(trained[0].argmax(dim=1), trained[1])
    assert result_of(capsys, gsd, *words)["labels"] == "hard"
    code, _, err = run(capsys, gsd, *words, "--labels", "soft")
    assert (code, "hard labels only" in err) == (2, True)


def test_learning_rates_are_the_protocols_the_files_or_the_users(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = tmp_path / "learned.gsd"
    with gsdata.open(gsd) as file:
        recipe = gsdata.Recipe(lr=0.004)
        gsdata.save(learned, file.codes(), labels=file.labels, classes=CLASSES, recipe=recipe)
    words = ("--data", data, "--seeds", 1, "--steps", 1, "--model", "ConvNet-D1", "--protocol")
    rates = [
        result_of(capsys, path, *words, *more)["protocol"]["lr"]
        for path, *more in ((gsd, "gsdd"), (learned, "gsdd"), (learned, "fast"), (learned, "gsdd", "--lr", "0.5"))
    ]
    assert rates == [0.01, 0.004, 0.03, 0.5]


def test_a_file_that_asks_for_zca_is_whitened_as_the_real_training_images_are(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gsdata_tools.sources import load
    from gsdata_tools.whitening import Whitening

    path = tmp_path / "w.gsd"
    with gsdata.open(gsd) as file:
        recipe = gsdata.Recipe(zca={"epsilon": 0.2, "data": data.name, "split": "train"}, model="ConvNet-D1")
        gsdata.save(path, file.codes(), labels=file.labels, classes=CLASSES, recipe=recipe)
    seen: list[Any] = []
    real = train.accuracy
    monkeypatch.setattr(evaluation, "accuracy", lambda *words, **o: (seen.append(words[3]), real(*words, **o))[1])
    report = result_of(capsys, path, "--data", data, "--seeds", 1, "--steps", 20)
    assert report["normalization"] == {"zca": {"epsilon": 0.2}}
    assert torch.equal(seen[0].matrix, Whitening.fit(load(str(data), split="train").images, 0.2).matrix)
    assert report["accuracy"]["mean"] > 60
    assert result_of(capsys, path, "--data", data, "--export", tmp_path / "out")["normalization"]["zca"]
    for more in ((), ("--export", tmp_path / "again")):
        code, _, err = run(capsys, path, "--data", data, "--sizes", "16", *more)
        assert (code, "ZCA" in err, err.count("\n")) == (2, True, 1)
    (tmp_path / "copy").mkdir()
    for split in ("train", "test"):
        (tmp_path / "copy" / split).symlink_to(data / split)
    code, _, err = run(capsys, path, "--data", tmp_path / "copy")
    assert (code, "--data must name" in err, err.count("\n")) == (2, True, 1)


def test_the_table_is_readable(data: Path, gsd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, gsd, "--data", data, "--seeds", 2, "--steps", 2)
    assert code == 0
    assert "±" in out
    assert f"{gsd.stat().st_size:,}" in out
    assert "this file" in out
    assert "gsd-eval" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("across", "down", "other")}, "class 2 is 'plain'"),
        ({"classes": ("across", "down", "plain", "more")}, "has 3 classes"),
        ({"labels": None, "classes": ()}, "no labels"),
        ({"channels": 1}, "3 channels"),
        ({"size": (9, 8)}, "--size 9x8"),
    ],
)
def test_what_does_not_match_is_refused_in_one_line(
    change: dict[str, Any], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gsdata.gaussians import Gaussians
    from gsdata.quantize import fit_quantizers, quantize

    rng = np.random.default_rng(0)
    count = 12
    values = Gaussians(
        rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        rng.uniform(0.5, 1.5, (count, 3)).astype(np.float32),
        rng.random((count, change.get("channels", 3))).astype(np.float32),
        np.full(4, 3),
        change.get("size", (SIDE, SIDE)),
    )
    path = tmp_path / "other.gsd"
    labels = None if "labels" in change else np.array([0, 1, 2, 0])
    gsdata.save(path, quantize(values, fit_quantizers(values)), labels=labels, classes=change.get("classes", CLASSES))
    code, out, err = run(capsys, path, "--data", data)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_bad_requests_and_bad_files(data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, tmp_path / "none.gsd", "--data", data)[0] == 2
    assert run(capsys, gsd, "--data", data, "--baselines", "gif")[0] == 2
    assert run(capsys, gsd, "--data", data, "--model", "VGG11")[0] == 2
    assert run(capsys, gsd, "--data", data, "--augment", "melt")[0] == 2
    assert run(capsys, gsd, "--data", data, "-o", tmp_path / "x.gsd")[0] == 2
    code, _, err = run(capsys, gsd, "--data", data, "--split", "train", "--baselines", "webp")
    assert (code, "another --split" in err) == (2, True)
    there = tmp_path / "there.json"
    there.write_text("{}")
    code, _, err = run(capsys, gsd, "--data", data, "-o", there)
    assert (code, "--force" in err, there.read_text()) == (2, True, "{}")
    damaged = tmp_path / "damaged.gsd"
    content = bytearray(gsd.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    code, _, err = run(capsys, damaged, "--data", data)
    assert (code, err.count("\n")) == (1, 1)


def test_cost_is_stated_before_the_published_protocol(
    data: Path, gsd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, gsd, "--data", data, "--seeds", 1, "--steps", 2, "--protocol", "gsdd")
    assert code == 0
    assert "1 trainings of 2 steps" in err.splitlines()[0]
    assert "ms a step" in err.splitlines()[0]


def test_help_needs_neither_torch_nor_numba() -> None:
    code = (
        "import sys\nfrom gsdata_tools import evaluate\nassert evaluate.main(['--help']) == 0\n"
        "assert not {'torch', 'numba', 'cupy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--baselines" in done.stdout


@pytest.mark.data("cifar10")
def test_cifar10_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gsdata_tools.fit import fit_images
    from gsdata_tools.sources import load

    monkeypatch.setattr("gsdata_tools.baselines.QUALITIES", {"webp": (10,), "jpeg": (10,)})
    real = load("cifar10", split="train", limit=20, balanced_seed=0)
    path = tmp_path / "c.gsd"
    codes = fit_images(real.images, 22, steps=40, sweeps=0).codes
    gsdata.save(path, codes, labels=real.labels, classes=real.classes)
    words = (path, "--data", "cifar10", "--seeds", 1, "--steps", 2, "--limit", 50, "--baselines", "webp")
    report = result_of(capsys, *words)
    assert report["model"] == "ConvNet-D3"
    assert report["test"]["images"] == 50
    webp = report["baselines"]["webp"]
    assert 0.9 * report["bytes_total"] < webp["bytes_total"] <= report["bytes_total"]
