from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import gsdata
from gsdata_tools import dc, distill_plan, distillation, distilling, monitors
from gsdata_tools.distill import main
from gsdata_tools.experts import main as make_experts

ROOTS = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in (".", "tools"))
FAST = [
    "--model",
    "ConvNet-D1",
    "--batch-real",
    "8",
    "--fit-steps",
    "40",
    "--pretrain",
    "1",
    "2",
    "--classes-per-step",
    "0",
    "--quiet",
]
BUDGET = 4000
ESCAPING = ("--no-clamp", "--boundary", "0", "--lr", "60")
"""Steps so large that Gaussians leave the image."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(distillation, "WARMUP_STEPS", 10)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path):
    draws = np.random.default_rng(0)
    y = np.arange(36) % 3
    x = (draws.integers(0, 100, (36, 12, 12, 3)) + 50 * y[:, None, None, None]).astype(np.uint8)
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y)
    return path


def dm(data, out, *more, iterations=6, budget=BUDGET, method="dm"):
    options = [method, "--data", str(data), "--bytes", str(budget), "--iterations", str(iterations), "-o", str(out)]
    return main([*options, *FAST, *more])


@pytest.mark.parametrize("init", ["real", "warmup", "random"])
@pytest.mark.parametrize("budget", [2500, 9000])
def test_the_file_holds_98_to_100_percent_of_the_budget(data, tmp_path, init, budget):
    out = tmp_path / "x.gsd"
    assert dm(data, out, "--init", init, "--images-per-class", "4", iterations=2, budget=budget) == 0
    assert 0.98 * budget <= out.stat().st_size <= budget
    with gsdata.open(out) as file:
        file.verify()
        assert file.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert file.provenance["real_init"] == (init == "real")
        assert file.provenance["iterations"] == 2
        assert file.recipe.model == "ConvNet-D1"
        assert file.recipe.augment == "dsa:color_crop_cutout_flip_scale_rotate"
        assert file.recipe.mean is not None
        assert 0.3 < file.recipe.mean[0] < 0.5
    assert not (tmp_path / "x.ckpt").exists()
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["bytes_total"] == out.stat().st_size
    assert [entry["iteration"] for entry in report["log"]] == [1, 2]


def test_ipc_means_bytes_of_uncompressed_images(data, tmp_path):
    out = tmp_path / "x.gsd"
    options = ["dm", "--data", str(data), "--ipc", "2", "--iterations", "0", "-o", str(out), *FAST]
    assert main(options) == 0
    budget = 2 * 3 * 12 * 12 * 3 * 4
    assert 0.98 * budget <= out.stat().st_size <= budget
    assert main([*options, "--convention", "uint8", "--images-per-class", "2", "--force"]) == 0
    assert 0.98 * budget / 4 <= out.stat().st_size <= budget / 4


def test_a_time_limit_stores_what_that_many_iterations_make(data, tmp_path, monkeypatch):
    made = []
    step = distillation.Distillation.step
    monkeypatch.setattr(distillation, "WEIGH_EVERY", 2)
    monkeypatch.setattr(distillation.Distillation, "step", lambda self: made.append(1) or step(self))
    monkeypatch.setattr(distilling.cli.Deadline, "remaining", lambda self: 1e9 if len(made) < 5 else 0.0)
    assert dm(data, tmp_path / "limited.gsd", "--time-limit", "10m", iterations=50) == 0
    assert len(made) == 5
    monkeypatch.undo()
    monkeypatch.setattr(distillation, "WEIGH_EVERY", 2)
    assert dm(data, tmp_path / "counted.gsd", iterations=5) == 0
    assert (tmp_path / "limited.gsd").read_bytes() == (tmp_path / "counted.gsd").read_bytes()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dm", ("--networks", "random")),
        ("dm", ("--networks", "trained", "--rate-weight", "0.02")),
        ("dm", ("--networks", "random", "--recycle", *ESCAPING)),
        ("dc", ("--outer-loop", "4", "--micro-batch", "3")),
        ("dc", ("--networks", "trained", "--outer-loop", "2", "--inner-loop", "2")),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bytes(data, tmp_path, monkeypatch, capsys, method, options):
    run = partial(dm, data, method=method)
    monkeypatch.setattr(distillation, "WEIGH_EVERY", 2)
    monkeypatch.setattr(monitors, "EVERY", 2)
    assert run(tmp_path / "whole.gsd", *options) == 0
    step = distillation.Distillation.step

    def stop_at_three(self):
        if self.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(distillation.Distillation, "step", stop_at_three)
    out = tmp_path / "parts.gsd"
    assert run(out, *options) == 130
    assert "--resume" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(distillation.Distillation, "step", step)
    assert run(out, *options) == 2  # neither --resume nor --force
    assert run(out, *options, "--lr", "2", "--resume") == 2  # another run
    monkeypatch.setattr(distillation, "pretrain", lambda *a, **k: pytest.fail("networks are in the checkpoint"))
    assert run(out, *options, "--resume") == 0
    assert out.read_bytes() == (tmp_path / "whole.gsd").read_bytes()
    parts, whole = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("parts", "whole"))
    assert parts["log"] == whole["log"]
    assert parts["monitors"] == whole["monitors"]
    assert [entry["iteration"] for entry in whole["monitors"]] == [0, 2, 4, 6]


@pytest.mark.parametrize("init", ["real", "warmup", "random"])
def test_gradient_matching_fills_the_budget_and_says_how_it_was_made(data, tmp_path, init):
    out = tmp_path / "x.gsd"
    options = ("--init", init, "--images-per-class", "4", "--outer-loop", "2", "--rate-weight", "0.01")
    assert dm(data, out, *options, iterations=3, method="dc") == 0
    assert 0.98 * BUDGET <= out.stat().st_size <= BUDGET
    with gsdata.open(out) as file:
        command = file.provenance["command"]
    assert command.startswith("gsd-distill dc ")
    for said in ("--inner-loop 1", "--outer-loop 2", "--micro-batch 64", "--networks random", "--rate-weight 0.01"):
        assert said in command
    log = json.loads((tmp_path / "x.json").read_text())["log"]
    assert set(log[0]) == {"iteration", "loss", "match", "boundary", "rate"}


@pytest.mark.parametrize(("outer", "networks"), [(1, 4), (2, 2), (3, 2)])
def test_a_network_is_matched_for_an_outer_loop(data, tmp_path, monkeypatch, outer, networks):
    matched = []
    step = dc.dc_step

    def watch(iteration, *others):
        matched.append(others[4].classifier.weight.detach().clone())
        return step(iteration, *others)

    monkeypatch.setattr(dc, "dc_step", watch)
    options = ("--outer-loop", str(outer), "--inner-loop", "0", "--choose", "random")
    assert dm(data, tmp_path / "x.gsd", *options, iterations=4, method="dc") == 0
    different = {weight.numpy().tobytes() for weight in matched}
    assert len(different) == networks
    monkeypatch.setattr(dc, "dc_step", lambda iteration, *others: matched.append(others[4]) or {"loss": 0.0})
    matched.clear()
    assert dm(data, tmp_path / "y.gsd", *options[:2], *options[4:], iterations=4, method="dc") == 0
    assert len({id(network) for network in matched}) == networks


def test_soft_labels_are_within_the_budget_and_stay(data, tmp_path, capsys):
    options = ("--soft-labels", "0.4", "--choose", "random", "--images-per-class", "4")
    assert dm(data, tmp_path / "a.gsd", *options, method="dc") == 0
    assert dm(data, tmp_path / "b.gsd", *options, method="dc", iterations=1) == 0
    with gsdata.open(tmp_path / "a.gsd") as file, gsdata.open(tmp_path / "b.gsd") as other:
        assert 0.98 * BUDGET <= file.byte_table().total <= BUDGET
        assert file.label_kind == "soft"
        assert file.labels.tolist() == np.repeat(np.arange(3), 4).tolist()
        assert np.array_equal(file.soft_labels, other.soft_labels)
        own = file.soft_labels[np.arange(12), file.labels]
        assert np.all(own >= 0.6 - 1 / 255)
        assert np.ptp(own) > 0
        assert "--soft-labels 0.4" in file.provenance["command"]
    assert dm(data, tmp_path / "c.gsd", "--soft-labels", "0.4", "--init", "random") == 2
    assert "does not have yet" in capsys.readouterr().err
    assert dm(data, tmp_path / "c.gsd", "--soft-labels", "0.5") == 2
    assert "below 0.5" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dm", "dc", "tm"])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(data, tmp_path, method):
    options = ["--data", str(data), "--bytes", str(BUDGET), "--iterations", "40"]
    if method == "tm":
        made = ["--experts", "2", "--epochs", "3", "--model", "ConvNet-D1", "--quiet", "-o", str(tmp_path / "e")]
        assert make_experts(["--data", str(data), *made]) == 0
        options += ["--model", "ConvNet-D1", "--fit-steps", "40", "--quiet", "--expert-dir", str(tmp_path / "e")]
        options += ["--syn-steps", "3", "--batch-syn", "4", "--expert-epochs", "1", "--soft-labels", "0.3"]
    else:
        options += [*FAST, *(["--outer-loop", "4"] if method == "dc" else ["--rate-weight", "0.01"])]
    code = (
        "import sys; from gsdata_tools import distillation, distilling, monitors;"
        "distilling.SAVE_SECONDS = 0.0; distillation.WEIGH_EVERY = 7; monitors.EVERY = 10;"
        "from gsdata_tools.distill import main; sys.exit(main(sys.argv[1:]))"
    )

    def start(name, *more):
        command = [sys.executable, "-c", code, method, *options, "--recycle", "-o", str(tmp_path / name), *more]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ROOTS})

    assert start("whole.gsd").wait() == 0
    draws, killed = np.random.default_rng(), 0
    checkpoint = tmp_path / "parts.ckpt" / "state.npz"
    while not (tmp_path / "parts.gsd").exists():
        process = start("parts.gsd", "--resume")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        # Wait until it gets somewhere, or each would be killed while it loads; then for a moment that nobody chose.
        while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
            time.sleep(0.01)
        time.sleep(draws.uniform(0.0, 0.5))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL)
    assert killed >= 3
    assert (tmp_path / "parts.gsd").read_bytes() == (tmp_path / "whole.gsd").read_bytes()


def test_failures_are_counted_warned_of_and_drawn(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitors, "EVERY", 4)
    assert dm(data, tmp_path / "kept.gsd", "--networks", "random", "--choose", "random", *ESCAPING, iterations=8) == 0
    found = json.loads((tmp_path / "kept.json").read_text())["monitors"]
    assert [entry["iteration"] for entry in found] == [0, 4, 8]
    assert found[0]["escaped"] == 0
    assert found[-1]["escaped"] > 0.02 * found[-1]["gaussians"]
    assert "from 0 to" in (told := capsys.readouterr().err)
    assert "escaped" in told
    assert "--recycle" in told
    assert (tmp_path / "kept.monitors.png").read_bytes()[:4] == b"\x89PNG"

    options = ("--networks", "random", "--choose", "random", "--recycle", *ESCAPING)
    assert dm(data, tmp_path / "again.gsd", *options, iterations=8) == 0
    recycled = json.loads((tmp_path / "again.json").read_text())["monitors"]
    assert recycled[1]["escaped"] <= recycled[1]["recycled"]
    with gsdata.open(tmp_path / "again.gsd") as file:
        assert " --recycle " in file.provenance["command"]
    with gsdata.open(tmp_path / "kept.gsd") as file:
        assert "recycle" not in file.provenance["command"]


def test_without_matplotlib_the_counts_are_not_drawn_and_a_line_says_so(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitors, "EVERY", 2)
    monkeypatch.setattr(distilling, "draw", lambda history, path: False)
    options = ["dm", "--data", str(data), "--bytes", str(BUDGET), "--iterations", "2", "-o", str(tmp_path / "x.gsd")]
    assert main([*options, "--choose", "random", *(word for word in FAST if word != "--quiet")]) == 0
    assert capsys.readouterr().err.count("matplotlib is not installed") == 1
    assert not (tmp_path / "x.monitors.png").exists()


def test_a_rate_weight_is_logged_recorded_and_buys_gaussians(data, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "WEIGH_EVERY", 5)
    reports = {}
    for weight in ("0", "0.000000001", "0.05"):
        out = tmp_path / f"{weight}.gsd"
        assert dm(data, out, "--rate-weight", weight, "--images-per-class", "4", iterations=25) == 0
        reports[weight] = json.loads(out.with_suffix(".json").read_text())
        with gsdata.open(out) as file:
            assert ("--rate-weight 0.05" in file.provenance["command"]) == (weight == "0.05")
    assert reports["0.05"]["gaussians"] > reports["0"]["gaussians"]
    rates = {weight: [entry["rate"] for entry in reports[weight]["log"]] for weight in ("0.000000001", "0.05")}
    assert rates["0.05"][0] == rates["0.000000001"][0]
    assert rates["0.05"][4] < rates["0.000000001"][4]  # the same images, before either file was filled again
    assert "rate" not in reports["0"]["log"][0]


def test_bytes_depend_on_the_seed_and_not_on_when_checkpoints_are_made(data, tmp_path, monkeypatch):
    first, second, other = (tmp_path / f"{name}.gsd" for name in ("first", "second", "other"))
    assert dm(data, first) == 0
    monkeypatch.setattr(distilling, "SAVE_SECONDS", 0.0)
    assert dm(data, second) == 0
    assert first.read_bytes() == second.read_bytes()
    assert dm(data, other, "--seed", "1") == 0
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("options", "budget", "says"),
    [
        ((), 300, "too few"),
        (("--images-per-class", "12", "--gaussians", "500"), BUDGET, "too few"),
        (("--images-per-class", "2", "--gaussians", "3"), BUDGET, "would fill only"),
        (("--images-per-class", "13"), BUDGET, "12 real images"),
        (("--augment", "dsa:color_twirl"), BUDGET, "twirl"),
        (("--model", "ConvNet-D6"), BUDGET, "too few"),
        (("--model", "LeNet"), BUDGET, "LeNet"),
        (("--networks", "random", "--classify", "1"), BUDGET, "--networks trained"),
    ],
)
def test_impossible_requests_come_before_any_work(data, tmp_path, monkeypatch, capsys, options, budget, says):
    for name in ("pretrain", "real_set", "noise_set"):
        monkeypatch.setattr(distillation, name, lambda *a, **k: pytest.fail("work was done"))
    assert dm(data, tmp_path / "x.gsd", *options, budget=budget) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz"]


@pytest.mark.parametrize("text", ["7,5,6", "7,5,6,0", "7,5,6,13", "a,b,c,d"])
def test_bad_bits_are_a_usage_error(data, tmp_path, capsys, text):
    assert dm(data, tmp_path / "x.gsd", "--bits", text) == 2
    assert "bit widths" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; from gsdata_tools.distill import main; assert main(['dm', '--help']) == 0;"
        "assert not {'torch', 'numba', 'cupy'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": ROOTS}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--ipc", "--bytes", "--init", "--time-limit", "--resume", "--boundary", "--no-clamp"):
        assert option in done.stdout


def test_statistics_are_those_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    mean, std = distill_plan.channel_statistics(images)
    values = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=6e-5)
    np.testing.assert_allclose(std, values.std(axis=0), atol=6e-5)
    assert distill_plan.channel_statistics(np.zeros((1, 2, 2, 1), np.uint8)) == ((0.0,), (0.01,))


def test_header_and_tables_of_a_cifar_sized_file_are_small(data, tmp_path):
    out = tmp_path / "x.gsd"
    assert dm(data, out, "--images-per-class", "2", iterations=1) == 0
    with gsdata.open(out) as file:
        table = file.byte_table()
        command = file.provenance["command"]
    # All that is no picture, in a set whose images have 12x12 pixels as in any other: 1 % of CIFAR-10 at IPC 1.
    assert table.overhead + table.index < 0.01 * 122_880
    for said in ("--boundary 0.1", "--classify 5", "--pretrain 1 2", "--seed 0", "--bits 8,5,6,6"):
        assert said in command
    for never in (str(tmp_path), "force", "time-limit", "resume"):
        assert never not in command
