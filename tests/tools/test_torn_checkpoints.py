"""Checkpoints that are cut, damaged, incomplete or from another run: one clear line, and never a wrong resume."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from gsdata_tools import distillation, distilling, encode_run, expert_training, experts_run
from gsdata_tools.distill import main as distill
from gsdata_tools.encode import main as encode
from gsdata_tools.experts import main as make_experts

from .test_distill import BUDGET, FAST
from .test_encode import _images

ENCODE = ("--gaussians", "4", "--steps", "20", "--quiet")
DM = ("--bytes", str(BUDGET), "--iterations", "4", "--choose", "random", "--networks", "random", *FAST)
EXPERTS = ("--experts", "1", "--epochs", "4", "--model", "ConvNet-D1", "--batch-size", "6", "--quiet")
RUNS = {
    "encode": (encode, ENCODE, "x.gsd"),
    "shards": (encode, (*ENCODE, "--shards", "2"), "x"),
    "dm": (lambda words: distill(["dm", *words]), DM, "x.gsd"),
    "experts": (make_experts, EXPERTS, "x"),
}


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(distilling, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(experts_run, "SAVE_SECONDS", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "data.npz", x=_images(12), y=np.arange(12) % 3)
    return tmp_path / "data.npz"


def stopped_at_the_third_step(monkeypatch, command):
    """Stop a run in the middle; what it has saved stays."""
    place, name = {
        "encode": (encode_run.cli.Progress, "update"),
        "shards": (encode_run.cli.Progress, "update"),
        "dm": (distillation.Distillation, "step"),
        "experts": (expert_training.ExpertTraining, "make_step"),
    }[command]
    step, steps = getattr(place, name), []

    def stopping(self, *arguments, **options):
        steps.append(1)
        if len(steps) == 3 or (command == "encode" and len(steps) == 1):
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(place, name, stopping)


def files(folder):
    return {
        path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".gsd", ".tar", ".safetensors")
    }


@pytest.mark.parametrize(
    "command", ["encode", "shards", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dm", "experts"))]
)
def test_what_cannot_be_continued_is_refused_in_one_line(command, data, tmp_path, monkeypatch, capsys):
    main, words, output = RUNS[command]

    def run(where, *more):
        (tmp_path / where).mkdir(exist_ok=True)
        return main(["--data", str(data), *words, "-o", str(tmp_path / where / output), *more])

    def stop(where, *more):
        with monkeypatch.context() as patch:
            stopped_at_the_third_step(patch, command)
            assert run(where, *more) == 130
        return tmp_path / where / "x.ckpt"

    assert run("whole") == 0
    ckpt, other = stop("part"), stop("other", "--seed", "7")
    kept, before = tmp_path / "kept", files(tmp_path / "part")
    shutil.copytree(ckpt, kept)
    capsys.readouterr()
    # The state that is read first.
    state = min(ckpt.glob("*.npz"), key=lambda path: (path.stem not in ("plan", "state"), path.name))
    whole = state.read_bytes()
    middle = len(whole) // 2
    wrong = {
        "cut": whole[:middle],
        "empty": b"",
        "byte": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "page": b"<!DOCTYPE html><title>404</title>",
        "other": (other / state.name).read_bytes(),
    }
    for kind, content in wrong.items():
        state.write_bytes(content)
        assert run("part", "--resume") == 1, kind
        said = capsys.readouterr().err.strip()
        assert said.count("\n") == 0, said
        assert f"{state}: damaged checkpoint file" in said
        assert "--force without --resume" in said
        assert files(tmp_path / "part") == before
    state.write_bytes(whole)
    options = ckpt / "options.json"
    for content in (options.read_bytes()[:-4], b"", None):
        options.unlink() if content is None else options.write_bytes(content)
        assert run("part", "--resume") == 1
        said = capsys.readouterr().err.strip()
        assert (said.count("\n"), f"{options}: damaged" in said) == (0, True)
    shutil.copy(other / "options.json", options)
    assert run("part", "--resume") == 2
    assert "seed" in capsys.readouterr().err
    shutil.rmtree(ckpt)
    shutil.copytree(kept, ckpt)
    assert run("part", "--resume") == 0
    assert files(tmp_path / "part") == files(tmp_path / "whole")
