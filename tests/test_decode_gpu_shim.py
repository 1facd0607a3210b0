"""``benchmarks/decode_gpu.py`` without a GPU: it says so, and its dry run on the shim runs every part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shim import needs_compiler

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "decode_gpu.py"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no CUDA device: nothing to measure (--dry-run tries this script without one)\n"


@needs_compiler
def test_the_dry_run_on_the_shim_measures_every_variant(tmp_path):
    done = run("--dry-run", "--workloads", "A", "C1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for wanted in (
        "forward float32",
        "from codes uint8",
        "forward + backward",
        "torch dense over gsdata",
        "target 35 us",
    ):
        assert wanted in done.stdout
    assert list(tmp_path.iterdir()) == []
