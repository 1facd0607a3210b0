"""The harness that kills commands notices what is lost, and our commands lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kills
from gsdata.atomic import write_atomically
from gsdata_tools.checkpoints import Checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")

ROOT = Path(__file__).parents[2]
PARTS = 3


def writer(fault: str) -> kills.Command:
    """A command that makes a file of three parts, and resumes; with one thing wrong, or none."""

    def body(words: list[str]) -> None:
        output, seed = Path(words[words.index("-o") + 1]), "--seed" in words
        parts = [bytes([seed + part]) * 5000 for part in range(PARTS)]
        ckpt = output.with_suffix(".ckpt")
        checkpoint = Checkpoint(ckpt, {"seed": seed}, resume="--resume" in words)
        done = len(checkpoint.names())
        for part in range(done, PARTS):
            time.sleep(0.002)
            state = {"part": np.frombuffer(parts[part], np.uint8)}
            if fault == "torn checkpoint" and part:
                with (ckpt / f"{part}.npz").open("wb", buffering=0) as file:
                    file.write(b"half")
                    time.sleep(0.003)
            checkpoint.save(str(part), state)
        if fault == "wrong resume" and done:
            parts[0] = bytes(5000)[::-1] + b"!"
        if fault == "half file":
            with output.open("wb", buffering=0) as file:
                for part in parts:
                    time.sleep(0.002)
                    file.write(part)
        else:
            write_atomically(output, b"".join(parts))
        if fault == "litter":
            (output.parent / f"{time.time_ns()}.bak").write_bytes(b"")
        if fault != "checkpoint stays":
            checkpoint.delete()

    return kills.Command(f"a writer: {fault}", body, (), "x.bin")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", None),
        ("half file", "x.bin is neither"),
        ("torn checkpoint", "npz"),
        ("wrong resume", "x.bin is neither"),
        ("litter", ".bak"),
        ("checkpoint stays", "at the end"),
    ],
)
def test_what_is_lost_is_noticed(tmp_path, fault, words):
    result = kills.measure(writer(fault), tmp_path, kills=60, stops=0, seed=0)
    if words is None:
        assert result["lost"] == []
        assert result["kills"] >= 60
        assert result["killed_after_two_saves"]["kills"] >= 1
        killed = result["killed"]
        steps = {step.removeprefix("before it could ") for step in killed["step"]}
        assert steps >= {f"{step} checkpoint" for step in ("make", "flush", "rename", "flush the folder of", "remove")}
        assert set(killed["write"]) == {"checkpoint being written", "output being written"}
        assert killed["clock"]
    else:
        assert words in result["lost"][0]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_commands_that_are_killed_lose_nothing(tmp_path):
    draws = np.random.default_rng(0)
    y = np.arange(120) % 4
    x = (draws.integers(0, 100, (120, 28, 28, 1)) + 40 * y[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    command = [sys.executable, "benchmarks/kills.py", "--data", str(tmp_path / "data.npz"), "--limit", "100"]
    numbers = ["--kills", "3", "--saves", "20", "--stops", "2", "--output", str(tmp_path / "kills.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, *numbers], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "kills.json").read_text())
    assert (result["lost"], len(result["commands"])) == (0, 11)
    assert result["kills"] >= 90
    assert result["stops"] >= 20
