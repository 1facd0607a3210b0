from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from gsdata.kernels.compiled import load_cached

ROOT = Path(__file__).parents[2]
RENDER = """
import sys, numpy as np, gsdata
one = np.ones((3, 3), np.float32)
batch = gsdata.Gaussians(0 * one[:, :2], one, one, np.array([1, 2]), (8, 8))
print(gsdata.render(batch).sum(), "numba.np.arraymath" in sys.modules)
from numba import njit
from gsdata.kernels.splat import splat_forward
@njit
def another(out):
    splat_forward(out[0, :1, :2], out[0, :1, :3], out[0, :1, :3], 1.0, 1.0, 0, out)
    return out.sum()
print(another(np.ones((3, 8, 8), np.float32)))
"""


def run(cache: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", RENDER], capture_output=True, text=True, timeout=250, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_a_compiler_is_loaded_only_to_compile(tmp_path):
    cold, warm = run(tmp_path), run(tmp_path)
    assert cold[0].endswith("True")
    assert warm[0].endswith("False"), "Numba has changed: see gsdata/kernels/compiled.py"
    for one, other in zip(cold, warm, strict=True):
        assert one.split()[:1] == other.split()[:1], "the same numbers, and the compiler works after it"


def test_where_numba_is_another_nothing_happens():
    load_cached(SimpleNamespace(targetctx=None))
