"""The runs of ``gsd-eval``: several networks and sizes, going on after a stop, and images that choose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsdata_tools import evaluation, train

from .stripes import one_thread, result_of, run, write_gsd, write_images


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield from one_thread()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def gsd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gsd(tmp_path_factory.mktemp("file") / "stripes.gsd")


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
