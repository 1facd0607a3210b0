"""The checks of the reference paper: their arguments and pure functions, and each of them once with hardly any work."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import ablation
import boundary_stress
import decode_cpu
import gsdata
import latency
import overfit_one_image
import sweep_images_per_class as sweeping
from drawing import Curve, Panel, draw
from gsdata_tools import distill, distillation, evaluate
from gsdata_tools.learnable import EDGE

TINY = boundary_stress.Plan(images=2, side=12, gaussians=5, steps=6, every=3, weights=(0.0, 0.1), seeds=1)
LESS = "--bytes 2000 --model ConvNet-D1 --fit-steps 10 --networks random --choose random --batch-real 4"


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    monkeypatch.setattr(distillation, "WARMUP_STEPS", 3)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path):
    y = np.arange(60) % 3
    x = np.random.default_rng(0).integers(0, 200, (60, 12, 12, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path / "data.npz"


@pytest.fixture
def commands(monkeypatch):
    """Commands of the scripts, which run in this process, as they were given."""
    given: list[str] = []
    mains = {"gsd-distill": distill.main, "gsd-eval": evaluate.main}

    def run(command: str, folder: Path) -> None:
        given.append(command)
        name, *words = command.split()
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            assert mains[name]([*words, "--resume", "--quiet"]) == 0

    monkeypatch.setattr(sweeping, "run", run)
    monkeypatch.setattr(ablation, "run_command", run)
    return given


def result_of(script: ModuleType, monkeypatch: pytest.MonkeyPatch, output: Path, *words: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["x", "--output", str(output), *words])
    script.main()
    assert output.with_suffix(".svg").stat().st_size > 1000
    assert output.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads(output.read_text())
    assert {"command", "quick", "runs", "versions", "hardware"} <= set(result)
    assert result["quick"] == ("--quick" in words)
    assert ("Quick run" in output.with_suffix(".svg").read_text()) == result["quick"]
    return result


def test_the_same_plot_is_the_same_file(tmp_path):
    panel = Panel("a panel", "x", "y", [Curve("first", [1, 10], [2.0, 3.0], [0.1, float("nan")])], [1, 10])
    for name in ("a.json", "b.json"):
        svg, png = draw(tmp_path / name, "a title", [panel, panel])
        assert png.exists()
    assert svg.read_bytes() == (tmp_path / "a.svg").read_bytes()
    assert all(text in svg.read_text() for text in ("a title", "a panel", "first"))


def test_other_options_or_other_code_are_other_files():
    one = sweeping.FULL
    stems = {
        sweeping.stem_of(one, 10, 0, "code"),
        sweeping.stem_of(one, 10, 1000, "code"),
        sweeping.stem_of(one, 20, 0, "code"),
        sweeping.stem_of(one, 10, 0, "other"),
        sweeping.stem_of(replace(one, distill="--data mnist --ipc 1"), 10, 0, "code"),
        sweeping.stem_of(replace(one, evaluate="--data cifar10 --seeds 4"), 10, 0, "code"),
    }
    assert len(stems) == 6
    assert sweeping.stem_of(one, 10, 0, "code") in stems
    assert {1, 10, 40, 160} <= set(one.images_per_class)


@pytest.mark.parametrize("sweep", [sweeping.FULL, sweeping.QUICKLY])
def test_commands_of_the_sweep_exist(sweep):
    made, evaluated = sweeping.commands(sweep, 40, 7, "x")
    arguments = distill._parser().parse_args(made.split()[1:])
    assert (arguments.images_per_class, arguments.iterations, str(arguments.output)) == (40, 7, "x.gsd")
    assert str(evaluate.build_parser().parse_args(evaluated.split()[1:]).file) == "x.gsd"


def test_a_sweep_holds_its_bytes_and_goes_on_where_it_was(data, tmp_path, monkeypatch, commands):
    plan = sweeping.Sweep((1, 4), 1, f"--data {data} {LESS}", f"--data {data} --split held-out --seeds 1 --steps 1")
    monkeypatch.setattr(sweeping, "QUICKLY", plan)
    words = ("--quick", "--folder", str(tmp_path / "work"))
    result = result_of(sweeping, monkeypatch, tmp_path / "r.json", *words, "--images-per-class", "1")
    assert len(commands) == 4
    result = result_of(sweeping, monkeypatch, tmp_path / "r.json", *words)
    assert len(commands) == 8, "what was there is made again"
    assert [(run["images_per_class"], run["iterations"]) for run in result["runs"]] == [(1, 0), (1, 1), (4, 0), (4, 1)]
    assert all(0.98 * 2000 <= run["bytes"] <= 2000 for run in result["runs"])
    assert result["runs"][0]["gaussians_per_image"] > 3 * result["runs"][2]["gaussians_per_image"]
    assert set(result["best_images_per_class"]) == {"fitted", "distilled"}
    for report in (tmp_path / "work").glob("4-1-*-eval.json"):
        report.unlink()
    assert result_of(sweeping, monkeypatch, tmp_path / "r.json", *words)["runs"] == result["runs"]
    assert commands[8:] == [result["runs"][3]["commands"][1]]


def test_means_are_placed_at_a_distance_on_their_side():
    means = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    placed = boundary_stress.place(means, 1.0, 1.3, seed=0)
    farthest = np.abs(placed).max(axis=1)
    assert farthest.min() >= 1
    assert 1.25 < farthest.max() <= 1.3
    assert ((placed != means).sum(axis=1) == 1).all()
    assert (np.sign(placed) == np.sign(means)).all()


def test_pictures_are_those_of_their_seed():
    shown = boundary_stress.pictures(3, 16, seed=1)
    assert shown.shape == (3, 3, 16, 16)
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert shown.std() > 0.1
    np.testing.assert_array_equal(shown, boundary_stress.pictures(3, 16, seed=1))
    assert (shown != boundary_stress.pictures(3, 16, seed=2)).any()


def test_a_clamp_brings_means_back():
    held = boundary_stress.stress(TINY, "beyond", 0.1, True, 0)
    free = boundary_stress.stress(replace(TINY, steps=0), "beyond", 0.0, False, 0)
    assert held["history"][0]["outside"] == held["history"][0]["gaussians"] == 10
    assert held["history"][-1]["outside"] == 0
    assert free["history"][-1]["outside"] == 10
    assert [entry["step"] for entry in held["history"]] == [0, 3, 6]
    assert boundary_stress.STARTS["at the edge"][1] <= 1
    assert EDGE < 1


def test_shares_of_a_stress_are_means_over_seeds():
    def run(seed: int, outside: int) -> dict:
        history = [{"outside": 10, "escaped": 10, "gaussians": 10}, {"outside": outside, "escaped": 4, "gaussians": 10}]
        return {"start": "beyond", "weight": 0.1, "clamp": False, "seed": seed, "history": history, "psnr": 20.0 + seed}

    others = [
        run(0, 0) | {"start": start, "clamp": clamp} for start in boundary_stress.STARTS for clamp in (True, False)
    ]
    runs = [one for one in others if (one["start"], one["clamp"]) != ("beyond", False)] + [run(0, 1), run(2, 4)]
    (row,) = [r for r in boundary_stress.summary(runs) if (r["start"], r["clamp"]) == ("beyond", False)]
    assert (row["outside"], row["escaped"], row["psnr"]) == (25.0, 40.0, 21.0)


def test_boundary_stress_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(boundary_stress, "QUICKLY", TINY)
    result = result_of(boundary_stress, monkeypatch, tmp_path / "r.json", "--quick")
    assert len(result["runs"]) == len(result["summary"]) == 3 * 2 * 2
    assert all(row["outside"] == 0 for row in result["summary"] if row["clamp"])


def test_latency_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_cpu, "PAUSE", 0.0)
    monkeypatch.setattr(latency, "BATCHES", (0, 1, 2))
    monkeypatch.setenv("GSDATA_NUM_THREADS", "1")  # restored afterwards
    result = result_of(latency, monkeypatch, tmp_path / "r.json", "--quick", "--gaussians", "5", "--threads", "1")
    assert [row["images"] for row in result["runs"]] == [1, 2]
    assert all(row["largest_difference"] < 1e-4 for row in result["runs"])


def test_overfitting_comes_closer_and_starts_from_another_image(data, tmp_path, monkeypatch):
    plan = overfit_one_image.Plan(images=3, gaussians=(8,), steps=30, every=20, fit_steps=40)
    monkeypatch.setattr(overfit_one_image, "QUICKLY", plan)
    result = result_of(overfit_one_image, monkeypatch, tmp_path / "r.json", "--quick", "--data", str(data))
    assert [run["start"] for run in result["runs"]] == ["real", "warmup", "random"]
    for run in result["runs"]:
        assert [point["step"] for point in run["points"]] == [0, 20, 30]
        assert np.mean(run["points"][-1]["psnr"]) > np.mean(run["points"][0]["psnr"]) + 0.3, run["start"]
    with np.load(data) as arrays:
        images = arrays["x"][:3]
    first = overfit_one_image.first_set("real", images, 8, 40)
    own, next_ = (overfit_one_image.quality(first, shown) for shown in (images, np.roll(images, -1, axis=0)))
    assert all(a < b for a, b in zip(own, next_, strict=True))


def test_an_ablation_changes_one_thing(data, tmp_path, monkeypatch, commands):
    plan = ablation.Plan(
        f"--data {data} {LESS} --images-per-class 2 --iterations 1",
        f"--data {data} --split held-out --seeds 1 --steps 1",
        1,
    )
    monkeypatch.setattr(ablation, "QUICKLY", plan)
    words = ("--quick", "--folder", str(tmp_path / "work"), "--only")
    result = result_of(ablation, monkeypatch, tmp_path / "r.json", *words, "opacity", "quantisation", "antialiasing")
    assert [row["change"] for row in result["summary"]] == ["all", "opacity", "quantisation", "antialiasing"]
    assert all(0.98 * 2000 <= run["bytes"] <= 2000 for run in result["runs"])
    whole, _, wide, _ = result["runs"]
    assert wide["gaussians"] < whole["gaussians"]
    modes = {
        path.name.split("-")[0]: gsdata.open(path).gaussians([0]).antialias
        for path in (tmp_path / "work").glob("*.gsd")
    }
    assert modes["antialiasing"] == "none"
    assert {modes[name] for name in ("all", "opacity", "quantisation")} == {"box-normalized"}
    assert len(commands) == 4
    again = result_of(ablation, monkeypatch, tmp_path / "r.json", *words, "opacity", "quantisation", "antialiasing")
    assert again["runs"] == result["runs"]
    assert len(commands) == 4


def test_without_opacity_opacities_stay(data, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(ablation, "close", lambda run: runs.append(run) or b"")
    for name in ("all", "opacity"):
        words, change = ablation.CHANGES[name]
        ablation.make(
            f"--data {data} {LESS} --images-per-class 2 --iterations 2 {words}", change, tmp_path / f"{name}.gsd"
        )
    assert not (runs[0].parameters.opacities == 1).all()
    assert (runs[1].parameters.opacities == 1).all()


def test_every_change_is_a_command_and_differences_are_to_the_whole():
    for words, _ in ablation.CHANGES.values():
        for plan in (ablation.FULL, ablation.QUICKLY):
            distill._parser().parse_args(["dm", *plan.distill.split(), *words.split(), "-o", "x.gsd"])
    runs = [
        {"change": change, "accuracy": {"mean": mean}}
        for change, mean in (("all", 50.0), ("all", 52.0), ("boundary", 49.0))
    ]
    whole, boundary = ablation.summary(runs)
    assert (whole["accuracy"], whole["difference"]) == (51.0, 0.0)
    assert whole["std"] == pytest.approx(2**0.5)
    assert (boundary["difference"], boundary["std"]) == (-2.0, None)
