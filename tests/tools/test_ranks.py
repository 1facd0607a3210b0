"""Several processes of one run: the shares of a step add up to it, and pairs of real processes over gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gsdata_tools import distilling, methods, ranks
from gsdata_tools.dc import DcOptions, dc_step
from gsdata_tools.distill import main
from gsdata_tools.dm import DmOptions, dm_step
from gsdata_tools.expert_files import read_experts
from gsdata_tools.experts import main as make_experts
from gsdata_tools.learnable import LearnableSet
from gsdata_tools.networks import build
from gsdata_tools.rate import RateModel
from gsdata_tools.real_data import RealData
from gsdata_tools.trajectory import match_trajectory

from .test_learnable import make_set

ROOTS = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in (".", "tools"))
FAST = ["--model", "ConvNet-D1", "--bytes", "4000", "--iterations", "20", "--choose", "random", "--fit-steps", "20"]
METHODS = {
    "dm": ["--batch-real", "8", "--classes-per-step", "0", "--pretrain", "1", "2", "--rate-weight", "0.01"],
    "dc": ["--batch-real", "8", "--classes-per-step", "2", "--outer-loop", "3"],
    "tm": ["--syn-steps", "3", "--batch-syn", "7", "--expert-epochs", "1"],
}
WORKER = """
import os, signal, sys
import numpy as np
from gsdata_tools import distillation, distilling
from gsdata_tools.distill import main

distilling.SAVE_SECONDS = 0.0
step, close, fatal = distillation.Distillation.step, distilling.close, os.environ.get("DIES_AT")

def fragile(self):
    if os.environ["RANK"] == "1" and str(self.iteration) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)

def keep(run):
    np.savez(run.arguments.output.with_suffix(".last.npz"), **run._state()[0])
    return close(run)

distillation.Distillation.step, distilling.close = fragile, keep
sys.exit(main(sys.argv[1:]))
"""
"""``gsd-distill`` that saves after every step and keeps its last state; its second process may be killed before a step."""


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


def pair(code, *arguments, **environment):
    """Run ``python -c code`` in two processes that know of each other as torchrun's do; their exit codes and errors."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"PYTHONPATH": ROOTS, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | environment
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors


def state_before_closing(monkeypatch, *arguments):
    """The arrays of a run in this process, as they are after its last step."""
    kept = {}
    with monkeypatch.context() as patched:
        patched.setattr(distilling, "_finish", lambda run, *others: kept.update(run._state()[0]))
        assert main([*map(str, arguments), "--quiet"]) == 0
    return kept


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name in LearnableSet.ATTRIBUTES:
        one, other = (arrays[f"set.{name}"] for arrays in (found, expected))
        assert np.abs(one - other).max() <= 1e-4 * np.ptp(other), name
    assert np.array_equal(found["set.counts"], expected["set.counts"])


def make_real(classes=3, per_class=6):
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (per_class * classes, 16, 16, 3)).astype(np.uint8)
    labels = np.repeat(np.arange(classes), per_class)
    return RealData(images, labels, classes, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), torch.device("cpu"))


@pytest.mark.parametrize("world", [2, 5])
@pytest.mark.parametrize("step", [dm_step, dc_step])
def test_the_shares_of_a_step_add_up_to_it(monkeypatch, step, world):
    common = {"batch_real": 6, "boundary": 0.3, "rate": 0.01}
    options = DmOptions(classify=2.0, **common) if step is dm_step else DcOptions(**common)
    labels, real = np.array([0, 1, 1, 2]), make_real()
    net = build("ConvNet-D1", 3, 3, (16, 16), seed=0, width=16)
    net.requires_grad_(step is dc_step)
    sums = []

    def one(rank=0, world=1):
        parameters, adam = make_set(counts=(9, 5, 7, 6), size=(16, 16))
        coding = RateModel.of(parameters.codes())
        monkeypatch.setattr(ranks, "_rank", rank)
        monkeypatch.setattr(ranks, "_world", world)
        caught = {}
        monkeypatch.setattr(
            methods.ranks, "totals", lambda tensors: sums.append([t.clone() for t in tensors]) or tensors
        )
        monkeypatch.setattr(adam, "step", lambda p, rows, leaves: caught.update({k: v.grad for k, v in leaves.items()}))
        losses = step(4, parameters, labels, adam, real, net, options, coding)
        return [*caught.values()], losses

    gradients, losses = one()
    for rank in range(world):
        one(rank, world)
    added = [torch.stack(values).sum(dim=0) for values in zip(*sums, strict=True)]
    for found, expected in zip(added[: len(gradients)], gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    assert len(added) == len(gradients) + len(losses)
    for found, expected in zip(added[len(gradients) :], losses.values(), strict=True):
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_shares_of_students_batches_add_up_to_the_exact_gradient():
    # Two processes as two threads that meet at each sum.
    from threading import Barrier, Thread

    draws = torch.Generator().manual_seed(0)
    images, start, target = (
        torch.randn(shape, generator=draws, dtype=torch.float64) for shape in ((6, 4), (12,), (12,))
    )
    truth, batches = torch.arange(6) % 3, [torch.tensor([0, 2, 4, 5]), torch.tensor([1, 2, 3, 5])]
    barrier, slots = Barrier(2), {}

    def student(rank, world):
        def loss(weights, seen, step):
            logits = torch.tanh(seen) @ weights.view(4, 3)
            wanted = truth[batches[step]]
            return functional.cross_entropy(logits[rank::world], wanted[rank::world], reduction="sum") / len(seen)

        return loss

    def total(rank):
        def meet(values):
            slots[rank] = values.clone()
            barrier.wait()
            values.copy_(slots[0] + slots[1])
            barrier.wait()
            return values

        return meet

    whole = match_trajectory(student(0, 1), start, target, images, batches, 0.3)
    found = {}

    def run(rank):
        found[rank] = match_trajectory(student(rank, 2), start, target, images, batches, 0.3, total=total(rank))

    threads = [Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.allclose(found[0].loss, whole.loss)
    assert torch.equal(found[0].loss, found[1].loss)
    assert torch.allclose(found[0].lr, whole.lr)
    assert torch.allclose(found[0].images + found[1].images, whole.images)


def test_what_is_sent_to_other_processes_arrives_as_it_was():
    parameters, _ = make_set()
    again = LearnableSet.unpack(*ranks.unpack(ranks.pack(*parameters.pack())), parameters.device)
    assert again.quantizers == parameters.quantizers
    assert again.codes().quantizers == parameters.codes().quantizers
    for name in LearnableSet.ATTRIBUTES:
        assert torch.equal(getattr(again, name), getattr(parameters, name))
    assert np.array_equal(again.counts, parameters.counts)
    assert (again.size, again.antialias, again.background) == (
        parameters.size,
        parameters.antialias,
        parameters.background,
    )


def test_one_process_alone_is_first_and_has_all(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.started(), ranks.world(), ranks.rank(), ranks.first()) == (1, 1, 0, True)
    assert ranks.own([3, 4]) == [3, 4]
    assert ranks.highest(2) == 2
    assert ranks.from_first(lambda: ({}, {"a": 1})) == ({}, {"a": 1})
    assert ranks.speaks_for_all()


@pytest.mark.parametrize(
    "method", ["dm", pytest.param("dc", marks=pytest.mark.slow), pytest.param("tm", marks=pytest.mark.slow)]
)
def test_two_processes_make_what_one_makes_and_one_goes_on_where_a_killed_one_was(data, tmp_path, monkeypatch, method):
    options = [method, "--data", data, *FAST, *METHODS[method]]
    if method == "tm":
        made = ["--data", str(data), "--experts", "2", "--epochs", "3", "--model", "ConvNet-D1", "--quiet"]
        assert make_experts([*made, "-o", str(tmp_path / "e")]) == 0
        options += ["--expert-dir", tmp_path / "e"]
    one = state_before_closing(monkeypatch, *options, "-o", tmp_path / "one.gsd")

    # The second process is killed before its last step: the first one ends with one line, and leaves a checkpoint.
    out = tmp_path / "two.gsd"
    codes, (told, nothing) = pair(WORKER, *options, "--quiet", "-o", out, DIES_AT="19")
    assert codes == [1, -signal.SIGKILL]
    assert nothing == ""
    assert told.count("\n") == 1
    assert "--resume" in told
    assert not out.exists()
    assert (tmp_path / "two.ckpt" / "state.npz").exists()
    two = state_before_closing(monkeypatch, *options, "-o", out, "--resume")
    assert_close(two, one)


@pytest.mark.slow
def test_two_processes_close_one_file_and_go_on_where_one_was_stopped(data, tmp_path, monkeypatch):
    options = ["dm", "--data", data, *FAST, *METHODS["dm"], "--quiet"]
    one = state_before_closing(monkeypatch, *options, "-o", tmp_path / "one.gsd")
    step = distilling.Distillation.step

    def stop(self):
        if self.iteration == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(distilling.Distillation, "step", stop)
        assert main([*map(str, options), "-o", str(tmp_path / "two.gsd")]) == 130
    codes, errors = pair(WORKER, *options, "-o", tmp_path / "two.gsd", "--resume")
    assert (codes, errors) == ([0, 0], ["", ""])
    with np.load(tmp_path / "two.last.npz") as kept:
        assert_close(dict(kept), one)
    assert (tmp_path / "two.gsd").stat().st_size <= 4000
    assert not (tmp_path / "two.ckpt").exists()


def test_what_is_wrong_for_all_processes_is_said_once(tmp_path):
    options = ["dm", "--data", tmp_path / "nothing.npz", *FAST, "-o", tmp_path / "x.gsd"]
    codes, errors = pair(WORKER, *options)
    assert codes == [2, 2]
    assert "".join(errors).count("\n") == 1
    assert "nothing.npz" in "".join(errors)


@pytest.mark.slow
def test_experts_are_divided_among_processes(data, tmp_path):
    options = [
        "--data",
        data,
        "--experts",
        "3",
        "--epochs",
        "2",
        "--model",
        "ConvNet-D1",
        "--batch-size",
        "16",
        "--quiet",
    ]
    code = "import sys; from gsdata_tools.experts import main; sys.exit(main(sys.argv[1:]))"
    codes, errors = pair(code, *options, "-o", tmp_path / "two")
    assert (codes, errors) == ([0, 0], ["", ""])
    assert not (tmp_path / "two.ckpt").exists()
    assert make_experts([*map(str, options), "-o", str(tmp_path / "one")]) == 0
    found, expected = (read_experts(tmp_path / name) for name in ("two", "one"))
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert one.recipe == other.recipe
        assert np.allclose(one.weights(2), other.weights(2), atol=1e-5)


@pytest.mark.slow
def test_torchrun(data, tmp_path):
    out = tmp_path / "x.gsd"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "gsdata_tools.distill",
    ]
    options = ["dm", "--data", str(data), *FAST, *METHODS["dm"], "--json", "-o", str(out)]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "PYTHONPATH": ROOTS},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"schema"') == 1
    assert '"processes": 2' in done.stdout
    assert 0.98 * 4000 <= out.stat().st_size <= 4000
