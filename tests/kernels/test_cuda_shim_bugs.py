"""Sanitizers over the CUDA source on a CPU, and proof that they would find something: bugs that are planted on purpose.

Launches are recorded while ``cuda.py`` makes them and run again by a program of their own, compiled with a sanitizer,
which must write the same bytes without a complaint. A planted bug is a small change of the source.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gsdata.kernels import cuda, cuda_launch
from gsdata.kernels.cuda import Output
from gsdata.kernels.cuda_launch import Launch
from gsdata.kernels.device_codes import DeviceCodes
from gsdata.quantize import fit_quantizers, quantize
from gsdata.testing import make_gaussians
from shim import ShimLauncher, build, installed, memory_of, needs_compiler, run_recorded, written

pytestmark = needs_compiler

SOURCE = cuda_launch.SOURCE.read_text()
PLAIN = ("-DSHIM_MAIN",)
ADDRESSES = ("-DSHIM_MAIN", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
RACES = ("-DSHIM_MAIN", "-O1", "-g", "-DSHIM_THREADS", "-fsanitize=thread")
BARRIERS = range(SOURCE.count("__syncthreads();"))


def launches(small: bool = False) -> list[Launch]:
    """Rounds, ragged counts, every format and layout, repeats, codes and gradients; ``small`` is a few blocks."""
    counts, size = ([40, 5], (12, 34)) if small else ([300, 0, 40], (35, 21))
    batch = make_gaussians(0, counts, size=size, kinds=("mixed", "fitted"), opacities=True)
    with installed(ShimLauncher()) as launcher:
        for dtype in [torch.float32] if small else [torch.float32, torch.float16, torch.bfloat16]:
            leaves = {
                name: torch.tensor(getattr(batch, name), requires_grad=True)
                for name in ("means", "cholesky", "colors", "opacities")
            }
            output = Output(dtype=dtype, channels_last=dtype == torch.float16, mean=(0.1, 0.2, 0.3))
            image = cuda.render(replace(batch, **leaves), None, [1, 0] if small else [2, 0, 2], output)
            image.backward(torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(dtype))
        if not small:
            cuda.render(batch.torch(), (9, 70), torch.tensor([1, 7, 0]), Output(dtype=torch.uint8))
            codes = quantize(batch, fit_quantizers(batch, means_bits=9))
            DeviceCodes.from_codes(codes, "cpu").render((33, 33))
        rounds = make_gaussians(1, [600], size=(16, 16), kinds=("fitted",))
        cuda.render(rounds.torch())
    return launcher.launches


def same_bytes(launch: Launch, path: Path) -> bool:
    """Whether a recorded run wrote what the run that made the launch wrote."""
    return all(written(launch, path)[name] == memory_of(tensor) for name, tensor in launch.tensors.items())


def planted(tmp_path: Path, change: str, by: str, place: int = 0) -> Path:
    """The source with one occurrence of ``change`` replaced."""
    at = [found.start() for found in re.finditer(re.escape(change), SOURCE)][place]
    path = tmp_path / "planted.cu"
    path.write_text(SOURCE[:at] + by + SOURCE[at + len(change) :])
    return path


def test_a_recorded_launch_runs_the_same_alone(tmp_path):
    for launch in launches():
        expected = {name: memory_of(tensor) for name, tensor in launch.tensors.items()}
        for name, tensor in launch.tensors.items():
            if name.startswith("grad_") or (name == "out" and launch.kernel == "splat_forward"):
                tensor.zero_()
        done = run_recorded(launch, build(3, extra=PLAIN), tmp_path / "record")
        assert done.returncode == 0, done.stderr
        assert written(launch, tmp_path / "record") == expected, launch.kernel


@pytest.mark.parametrize("place", BARRIERS)
def test_a_missing_barrier_is_seen_in_the_numbers(place, tmp_path):
    program = build(3, planted(tmp_path, "__syncthreads();", "", place), PLAIN)
    right = []
    for launch in launches(small=True):
        for descending in (False, True):
            done = run_recorded(launch, program, tmp_path / "record", descending=descending)
            right.append(done.returncode == 0 and same_bytes(launch, tmp_path / "record"))
    assert not all(right)


@pytest.mark.parametrize("place", BARRIERS)
def test_a_barrier_in_divergent_code_is_refused(place, tmp_path):
    source = planted(tmp_path, "__syncthreads();", "if (thread < 40) __syncthreads();", place)
    batch = make_gaussians(0, [40, 5], size=(12, 34))
    means = torch.tensor(batch.means, requires_grad=True)

    def step() -> None:
        cuda.render(replace(batch.torch(), means=means)).sum().backward()

    with installed(ShimLauncher(source)), pytest.raises(RuntimeError, match=r"divergent: .* \(line \d+\)"):
        step()


def test_a_vote_in_divergent_code_is_refused(tmp_path):
    source = planted(
        tmp_path,
        "const unsigned votes = __ballot_sync(ALL, hit);",
        "const unsigned votes = hit ? __ballot_sync(ALL, hit) : 0u;",
    )
    with installed(ShimLauncher(source)), pytest.raises(RuntimeError, match="divergent"):
        cuda.render(make_gaussians(0, [40], size=(12, 34)).torch())


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    program = build(3, extra=ADDRESSES)
    for launch in launches():
        done = run_recorded(launch, program, tmp_path / "record")
        assert done.returncode == 0, done.stderr
        assert same_bytes(launch, tmp_path / "record"), launch.kernel


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "by"),
    [
        ("held + min(FORWARD_THREADS, count - next) <= task.capacity", "true"),
        ("if (x >= task.width || y >= task.height) return;", ""),
        ("next + thread < count && meets", "next <= count && meets"),
        ("Index at = line + x", "Index at = 1 + line + x"),
    ],
    ids=["shared memory", "store", "load", "gradient"],
)
def test_an_access_outside_is_found(change, by, tmp_path):
    program = build(3, planted(tmp_path, change, by), ADDRESSES)
    done = [run_recorded(launch, program, tmp_path / "record") for launch in launches()]
    assert any("AddressSanitizer" in run.stderr for run in done)


@pytest.mark.slow
def test_no_races(tmp_path):
    program = build(3, extra=RACES)
    for launch in launches(small=True):
        done = run_recorded(launch, program, tmp_path / "record")
        assert done.returncode == 0, done.stderr
        assert same_bytes(launch, tmp_path / "record"), launch.kernel


@pytest.mark.slow
@pytest.mark.parametrize("place", BARRIERS)
def test_a_race_is_found(place, tmp_path):
    program = build(3, planted(tmp_path, "__syncthreads();", "", place), RACES)
    done = [run_recorded(launch, program, tmp_path / "record") for launch in launches(small=True)]
    assert any("data race" in run.stderr for run in done)


def test_nan_in_shared_memory_reaches_no_image():
    """The shim fills shared memory with NaN before every block, so a value that nobody wrote would show."""
    with installed(ShimLauncher(capacity=512)):
        assert np.isfinite(cuda.render(make_gaussians(0, [3, 0, 33], size=(12, 34)).torch()).numpy()).all()
