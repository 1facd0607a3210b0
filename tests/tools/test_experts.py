from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gsdata.errors import GsdError
from gsdata_tools import expert_training, experts_run
from gsdata_tools.expert_files import experts_digest, read_expert, read_experts
from gsdata_tools.experts import main
from gsdata_tools.networks import build
from gsdata_tools.trajectory import flatten

ROOTS = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in (".", "tools"))
FAST = ["--model", "ConvNet-D1", "--batch-size", "16", "--quiet"]


@pytest.fixture(autouse=True)
def _restore_threads():
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


def experts(data, out, *more, number=2, epochs=2):
    options = ["--data", str(data), "--experts", str(number), "--epochs", str(epochs), "-o", str(out)]
    return main([*options, *FAST, *more])


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_of_experts(data, tmp_path, capsys):
    out = tmp_path / "e"
    assert experts(data, f"{out}/", "--json", "--momentum", "0.9") == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(contents(out)) == ["expert-000.safetensors", "expert-001.safetensors"]
    assert not (tmp_path / "e.ckpt").exists()
    made = read_experts(out)
    net = build("ConvNet-D1", 3, 3, (12, 12), seed=0, key=(expert_training.NETWORK, 1))
    assert np.array_equal(made[1].weights(0), flatten(net).numpy())
    assert made[0].parameters == report["parameters"] == len(flatten(net))
    assert load_file(made[0].path)["trajectory"].shape == (3, made[0].parameters)
    recipe = made[0].recipe
    assert (recipe.momentum, recipe.epochs, recipe.classes, recipe.size) == (0.9, 2, 3, (12, 12))
    assert 0.3 < recipe.mean[0] < 0.5
    assert report["digest"] == experts_digest(made)
    assert not np.array_equal(made[0].weights(2), made[1].weights(2))


def test_experts_learn(data, tmp_path):
    assert experts(data, tmp_path / "e", "--lr", "0.05", "--augment", "crop", number=1, epochs=20) == 0
    (expert,) = read_experts(tmp_path / "e")
    net = build("ConvNet-D1", 3, 3, (12, 12), seed=0)
    with np.load(data) as file:
        x, y = file["x"], torch.from_numpy(file["y"])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (expert.recipe.mean, expert.recipe.std))
    pixels = (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 - mean) / std

    def accuracy(epoch):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(expert.weights(epoch)), net.parameters())
        return float((net(pixels).argmax(1) == y).float().mean())

    assert accuracy(20) > 0.9
    assert accuracy(0) < 0.7


def test_experts_do_not_depend_on_their_number_and_more_can_be_added(data, tmp_path, monkeypatch):
    assert experts(data, tmp_path / "three", number=3) == 0
    assert experts(data, tmp_path / "grown", number=1) == 0
    assert experts(data, tmp_path / "grown", number=3) == 2
    train = experts_run._train
    trained = []
    monkeypatch.setattr(experts_run, "_train", lambda e, *a: trained.extend(one.number for one in e) or train(e, *a))
    assert experts(data, tmp_path / "grown", "--resume", number=3) == 0
    assert trained == [1, 2]
    assert contents(tmp_path / "three") == contents(tmp_path / "grown")
    assert experts(data, tmp_path / "other", "--seed", "1", number=1) == 0
    assert contents(tmp_path / "other").items().isdisjoint(contents(tmp_path / "three").items())


@pytest.mark.parametrize("momentum", ["0", "0.9"])
@pytest.mark.parametrize("at", [2, 3, 7])
def test_a_stopped_run_resumes_to_the_same_bytes(data, tmp_path, monkeypatch, capsys, momentum, at):
    options = ("--momentum", momentum)
    assert experts(data, tmp_path / "whole", *options) == 0
    step = expert_training.ExpertTraining.make_step
    made = []

    def stop(self):
        made.append(1)
        if len(made) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(expert_training.ExpertTraining, "make_step", stop)
    assert experts(data, tmp_path / "parts", *options) == 130
    assert "--resume" in capsys.readouterr().err
    assert experts(data, tmp_path / "parts", *options) == 2
    made += [1] * 20
    assert experts(data, tmp_path / "parts", *options, "--resume") == 0
    assert len(made) == 20 + 12
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not (tmp_path / "parts.ckpt").exists()


def test_experts_trained_at_once_are_what_they_are_alone(data, tmp_path, monkeypatch):
    options = ("--momentum", "0.9", "--weight-decay", "0.01")
    assert experts(data, tmp_path / "alone", *options, number=3) == 0
    assert experts(data, tmp_path / "whole", *options, "--at-once", "3", number=3) == 0
    for one, other in zip(read_experts(tmp_path / "alone"), read_experts(tmp_path / "whole"), strict=True):
        assert np.array_equal(one.weights(0), other.weights(0))
        assert np.abs(one.weights(2) - other.weights(2)).max() < 1e-5
        assert np.abs(one.weights(2) - one.weights(0)).max() > 1e-2

    together = experts_run.step_together
    made = []

    def stop(group):
        made.append(len(group))
        if len(made) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return together(group)

    monkeypatch.setattr(experts_run, "step_together", stop)
    assert experts(data, tmp_path / "parts", *options, "--at-once", "3", number=3) == 130
    assert experts(data, tmp_path / "parts", *options, "--at-once", "3", "--resume", number=3) == 0
    assert made == [3] * 6
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_time_limit_keeps_what_is_done(data, tmp_path, monkeypatch, capsys):
    made = []
    step = expert_training.ExpertTraining.make_step
    monkeypatch.setattr(expert_training.ExpertTraining, "make_step", lambda self: made.append(1) or step(self))
    limit = 8
    monkeypatch.setattr(experts_run.cli.Deadline, "remaining", lambda self: 1e9 if len(made) < limit else 0.0)
    assert experts(data, tmp_path / "e", "--time-limit", "10m") == 0  # 6 steps make an expert
    assert list(contents(tmp_path / "e")) == ["expert-000.safetensors"]
    limit = 11
    assert experts(data, tmp_path / "e", "--resume", "--time-limit", "10m") == 0
    limit = 100
    assert experts(data, tmp_path / "e", "--resume") == 0
    assert len(made) == 12
    limit = 0
    assert experts(data, tmp_path / "none", "--time-limit", "10m") == 1
    assert "before one expert was done" in capsys.readouterr().err


def test_whitening_is_recorded_and_changes_what_is_learned(data, tmp_path):
    assert experts(data, tmp_path / "plain", number=1) == 0
    assert experts(data, tmp_path / "white", "--zca", number=1) == 0
    (plain,), (white,) = read_experts(tmp_path / "plain"), read_experts(tmp_path / "white")
    assert (plain.recipe.zca, white.recipe.zca) == (None, 0.1)
    assert np.array_equal(plain.weights(0), white.weights(0))
    assert not np.array_equal(plain.weights(1), white.weights(1))


def test_half_precision_halves_the_bytes(data, tmp_path):
    assert experts(data, tmp_path / "single", number=1) == 0
    assert experts(data, tmp_path / "half", "--half", number=1) == 0
    (single,), (half,) = read_experts(tmp_path / "single"), read_experts(tmp_path / "half")
    assert half.path.stat().st_size < 0.55 * single.path.stat().st_size
    np.testing.assert_array_equal(half.weights(2), single.weights(2).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--augment", "twirl"), "twirl"),
        (("--model", "LeNet"), "LeNet"),
        (("--model", "ConvNet-D6"), "too few"),
        (("--momentum", "1"), "below 1"),
        (("--zca", "--size", "80"), "ZCA whitening of 80x80"),
        (("-o", "{tmp}/missing/e"), "make it first"),
        (("-o", "{tmp}/data.npz"), "is a file"),
    ],
)
def test_impossible_requests_come_before_any_work(data, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.setattr(experts_run, "ExpertTraining", lambda *a: pytest.fail("work was done"))
    assert experts(data, tmp_path / "e", *(o.replace("{tmp}", str(tmp_path)) for o in options)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def test_a_training_that_diverges_is_told_and_not_stored(data, tmp_path, capsys):
    assert experts(data, tmp_path / "e", "--lr", "1e30") == 1
    error = capsys.readouterr().err
    assert "not finite" in error
    assert "--lr" in error
    assert contents(tmp_path / "e") == {}


def test_another_recipe_is_not_resumed_and_force_starts_again(data, tmp_path, capsys):
    out = tmp_path / "e"
    assert experts(data, out) == 0
    assert experts(data, out, "--lr", "0.02", "--resume") == 2
    assert "another lr" in capsys.readouterr().err
    assert experts(data, out, "--lr", "0.02", "--force", number=1) == 0
    assert [e.recipe.lr for e in read_experts(out)] == [0.02]


def test_damaged_files_are_told_in_one_line(data, tmp_path):
    out = tmp_path / "e"
    assert experts(data, out, number=1) == 0
    path = out / "expert-000.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1000])
    with pytest.raises(GsdError, match="damaged safetensors"):
        read_expert(path)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    expert = read_expert(path)
    assert len(expert.weights(1)) == expert.parameters
    with pytest.raises(GsdError, match="after epoch 2 do not match"):
        expert.weights(2)
    save_file({"trajectory": np.zeros((3, 4), np.float32)}, path)
    with pytest.raises(GsdError, match="not a file of gsd-experts"):
        read_expert(path)


def test_help_needs_no_torch():
    code = (
        "import sys; from gsdata_tools.experts import main; assert main(['--help']) == 0;"
        "assert not {'torch', 'numba', 'cupy'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": ROOTS}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--experts", "--epochs", "--half", "--resume", "--time-limit", "--augment"):
        assert option in done.stdout
