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
from PIL import Image

import gsdata
from gsdata_tools import evaluate, evaluation, train

SIDE = 8
CLASSES = ("across", "down", "plain")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, above all where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    wave = np.repeat([60, 200], 2)[np.arange(SIDE) % 4]
    shapes = (np.tile(wave[:, None], (1, SIDE)), np.tile(wave[None], (SIDE, 1)), np.full((SIDE, SIDE), 130))
    images = np.stack([shapes[label] for label in labels])[..., None] + rng.normal(0, 12, (count, SIDE, SIDE, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 120, 0), ("test", 45, 1)):
        images, labels = stripes(count, seed)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture(scope="module")
def gsd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gsdata_tools.fit import fit_images

    images, labels = stripes(30, 2)
    path = tmp_path_factory.mktemp("file") / "stripes.gsd"
    codes = fit_images(images, 8, steps=150, sweeps=1).codes
    recipe = gsdata.Recipe(mean=(0.5,) * 3, std=(0.2,) * 3, augment="dsa:crop_cutout", model="ConvNet-D2")
    gsdata.save(path, codes, labels=labels, classes=CLASSES, recipe=recipe)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = evaluate.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def result_of(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json", "--quiet")
    assert code == 0, err
    value: dict[str, Any] = json.loads(out)
    return value


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


def test_an_interrupted_evaluation_resumes_to_the_same_report(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsdata_tools.baselines.QUALITIES", {"webp": (1, 60), "jpeg": (10,)})
    common = ("--data", data, "--seeds", 2, "--steps", 3, "--baselines", "webp")
    whole = result_of(capsys, gsd, *common, "-o", tmp_path / "whole.json")
    out, calls = tmp_path / "cut.json", []
    real_train = train.train

    def stops(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real_train(*args, **options)

    monkeypatch.setattr(evaluation, "train", stops)
    code, _, err = run(capsys, gsd, *common, "-o", out)
    assert code == 130
    assert "--resume" in err
    assert not out.exists()
    code, _, err = run(capsys, gsd, *common, "-o", out)
    assert code == 2
    assert "left over" in err
    code, _, err = run(capsys, gsd, *common[:4], "--steps", 4, "--baselines", "webp", "-o", out, "--resume")
    assert code == 2
    assert "--steps 3" in err
    calls.clear()
    monkeypatch.setattr(evaluation, "train", lambda *a, **o: (calls.append(1), real_train(*a, **o))[1])
    assert result_of(capsys, gsd, *common, "-o", out, "--resume") == whole
    assert len(calls) == 3  # of six runs, three were finished before
    assert not out.with_suffix(".ckpt").exists()


def test_time_limit_reports_what_is_finished_and_can_be_resumed(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t.json"
    words = (gsd, "--data", data, "--seeds", 3, "--steps", 3, "-o", out, "--json", "--quiet")
    runs: list[int] = []
    real_train = train.train

    def counted(*args: Any, **options: Any) -> Any:
        runs.append(1)
        return real_train(*args, **options)

    monkeypatch.setattr(evaluation, "train", counted)
    monkeypatch.setattr("gsdata_tools.cli.Deadline.expired", lambda self: len(runs) >= 2)
    code, text, err = run(capsys, *words, "--time-limit", "1h")
    assert code == 0, err
    assert "--resume" in err
    part = json.loads(text)
    assert part["complete"] is False
    assert len(part["accuracy"]["runs"]) == 1
    monkeypatch.setattr("gsdata_tools.cli.Deadline.expired", lambda self: False)
    code, text, err = run(capsys, *words, "--resume")
    assert code == 0, err
    whole = json.loads(text)
    assert whole["complete"] is True
    assert whole["accuracy"]["runs"][0] == part["accuracy"]["runs"][0]
    assert len(whole["accuracy"]["runs"]) == 3


def test_tests_see_the_same_normalization_as_training_and_baselines_never_see_tests(
    data: Path, gsd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsdata_tools.baselines.QUALITIES", {"webp": (1,), "jpeg": (10,)})
    tested: list[tuple[int, Any]] = []
    real = train.accuracy

    def spy(network: Any, images: np.ndarray, labels: np.ndarray, unit: Any, **options: Any) -> float:
        tested.append((len(images), unit))
        return real(network, images, labels, unit, **options)

    monkeypatch.setattr(evaluation, "accuracy", spy)
    result_of(capsys, gsd, "--data", data, "--seeds", 1, "--steps", 2, "--baselines", "webp")
    assert [count for count, _ in tested] == [45, 12, 45]  # the file, a search on 12 held-out training images, webp
    assert len({unit for _, unit in tested}) == 1


def test_several_networks_and_sizes_are_each_reported(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsdata_tools.baselines.QUALITIES", {"webp": (1, 60), "jpeg": (10,)})
    drawn: list[tuple[Any, ...]] = []
    real_draw = evaluation.baselines.draw
    monkeypatch.setattr(
        "gsdata_tools.baselines.draw", lambda *words: (drawn.append((words[0], *words[4:])), real_draw(*words))[1]
    )
    trained: list[tuple[str, tuple[int, ...]]] = []
    real_train = train.train

    def spy(images: Any, *words: Any, **options: Any) -> Any:
        trained.append((options["model"], tuple(images.images.shape[2:])))
        return real_train(images, *words, **options)

    monkeypatch.setattr(evaluation, "train", spy)
    common = (gsd, "--data", data, "--seeds", 1, "--steps", 1, "--baselines", "webp")
    report = result_of(capsys, *common, "--model", "convnet-d1,ConvNet-D2", "--sizes", "16,8")
    cases = [("ConvNet-D1", [16, 16]), ("ConvNet-D1", [8, 8]), ("ConvNet-D2", [16, 16]), ("ConvNet-D2", [8, 8])]
    assert [(result["model"], result["size"]) for result in report["results"]] == cases
    assert {case: trained.count(case) for case in set(trained)} == {(m, tuple(s)): 4 for m, s in cases}
    purposes = [purpose for *_, purpose in drawn]
    assert purposes.count("search") == 2  # once per quality, for all networks and sizes
    assert 1 <= purposes.count("final") <= 4
    for key in ("model", "size", "parameters", "protocol", "accuracy", "baselines", "test"):
        assert report[key] == report["results"][0][key]
    digests = {tuple(result["size"]): result["test"]["digest"] for result in report["results"]}
    assert len(set(digests.values())) == 2
    alone = result_of(capsys, *common, "--model", "ConvNet-D2")
    assert alone["accuracy"] == report["results"][3]["accuracy"]
    assert alone["baselines"]["webp"]["searched"] == report["results"][3]["baselines"]["webp"]["searched"]
    code, out, _ = run(capsys, *common, "--model", "ConvNet-D1,ConvNet-D2", "--sizes", "8", "--quiet")
    assert (code, "ConvNet-D2 at 8x8" in out, "ConvNet-D1 at 8x8" in out) == (0, True, True)


def test_more_networks_and_sizes_may_be_asked_for_when_resuming(
    data: Path, gsd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (gsd, "--data", data, "--seeds", 1, "--steps", 2, "--model", "ConvNet-D1", "-o", tmp_path / "r.json")
    monkeypatch.setattr("gsdata_tools.cli.Checkpoint.delete", lambda self: None)
    result_of(capsys, *words)
    calls: list[int] = []
    real_train = train.train
    monkeypatch.setattr(evaluation, "train", lambda *a, **o: (calls.append(1), real_train(*a, **o))[1])
    report = result_of(capsys, *words, "--resume", "--sizes", "8,16")
    assert (len(calls), len(report["results"])) == (1, 2)


def test_real_images_are_tested_at_the_size_that_the_file_is_rendered_at(
    data: Path, gsd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[tuple[int, ...]] = []
    real = train.accuracy

    def spy(network: Any, images: np.ndarray, *words: Any, **options: Any) -> float:
        tested.append(images.shape)
        return real(network, images, *words, **options)

    monkeypatch.setattr(evaluation, "accuracy", spy)
    report = result_of(
        capsys, gsd, "--data", data, "--seeds", 1, "--steps", 20, "--model", "ConvNet-D1", "--sizes", "16"
    )
    assert tested == [(45, 16, 16, 3)]
    assert report["accuracy"]["mean"] > 80  # stripes are stripes at twice the size
    code, _, err = run(capsys, gsd, "--data", data, "--sizes", "16x8")
    assert (code, "proportions" in err) == (2, True)
    assert run(capsys, gsd, "--data", data, "--sizes", "16,big")[0] == 2
    assert run(capsys, gsd, "--data", data, "--sizes", "16", "--model", "VGG11")[0] == 2


def test_held_out_images_choose_the_state_that_is_tested(
    data: Path, gsd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    real = train.accuracy

    def spy(network: Any, images: np.ndarray, *words: Any, **options: Any) -> float:
        seen.append((len(images), real(network, images, *words, **options)))
        return seen[-1][1]

    monkeypatch.setattr(evaluation, "accuracy", spy)
    words = (gsd, "--data", data, "--seeds", 1, "--steps", 6)
    report = result_of(capsys, *words, "--checkpoints", 3)
    assert [count for count, _ in seen] == [12, 12, 12, 45]  # test images once, after the choice
    scores = [score for _, score in seen[:3]]
    assert report["chosen"]["validation_accuracy"] == [max(scores)]
    assert report["chosen"]["step"] == [2 * (3 - scores[::-1].index(max(scores)))]
    assert report["checkpoints"] == 3
    plain = result_of(capsys, *words)
    assert "chosen" not in plain
    if report["chosen"]["step"] == [6]:
        assert plain["accuracy"] == report["accuracy"]
    assert run(capsys, *words, "--checkpoints", 3, "--split", "train")[0] == 2


def test_held_out_split_tests_on_training_images_that_baselines_never_use(
    data: Path, gsd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gsdata_tools.baselines import Pool
    from gsdata_tools.sources import digest_of, load

    words = (gsd, "--data", data, "--seeds", 1, "--steps", 2, "--split", "held-out")
    report = result_of(capsys, *words)
    real = load(str(data), split="train")
    held_out = Pool.of(real.images, real.labels, 3, 0).validation
    assert report["test"]["split"] == "held-out"
    assert report["test"]["digest"] == digest_of(real.images[held_out], real.labels[held_out])
    assert result_of(capsys, *words, "--limit", 6)["test"]["images"] == 6
    for more in (("--baselines", "webp"), ("--checkpoints", 2)):
        code, _, err = run(capsys, *words, *more)
        assert (code, err.count("\n"), "held-out" in err) == (2, 1, True)


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
