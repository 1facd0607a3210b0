"""``splat.cu`` compiled by g++ and run on the CPU, in the place of the CUDA launcher (tests/kernels/shim/shim.cpp).

``installed()`` lets ``gsdata.kernels.cuda`` work on CPU tensors, through everything but CuPy's compiler and launch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gsdata.kernels import cuda_launch
from gsdata.kernels.cuda_launch import TASK, Launch

HOST = Path(__file__).parent / "kernels" / "shim" / "shim.cpp"
BUILT = Path(__file__).parents[1] / ".pytest_cache" / "shim"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++: not installed")


@functools.cache
def build(channels: int, source: Path = cuda_launch.SOURCE, extra: tuple[str, ...] = ()) -> Path:
    """A shared library (with -DSHIM_MAIN in ``extra``: a program); kept for as long as neither source changes."""
    options = ["-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"]
    options += [*cuda_launch.options(channels), f'-DSPLAT_SOURCE="{source}"', *extra]
    options += [] if "-DSHIM_MAIN" in extra else ["-shared", "-fPIC"]
    options += [] if any(option.startswith("-O") for option in extra) else ["-O2"]
    key = hashlib.sha256(repr(options).encode() + source.read_bytes() + HOST.read_bytes()).hexdigest()[:16]
    target = (BUILT if source == cuda_launch.SOURCE else source.parent) / key
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{key}.{os.getpid()}.partial")
        done = subprocess.run(
            ["g++", *options, str(HOST), "-o", str(partial)], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        partial.rename(target)
    return target


@functools.cache
def library(channels: int, source: Path = cuda_launch.SOURCE) -> ctypes.CDLL:
    return ctypes.CDLL(str(build(channels, source)))


class ShimLauncher:
    """Runs launches block by block; ``launches`` keeps them."""

    def __init__(
        self,
        source: Path = cuda_launch.SOURCE,
        *,
        descending: bool = False,
        capacity: int = cuda_launch.FORWARD_THREADS,
    ) -> None:
        self.source, self.descending, self.held = source, descending, capacity
        self.launches: list[Launch] = []

    def capacity(self, device: torch.device) -> int:
        return self.held

    def __call__(self, launch: Launch) -> None:
        self.launches.append(launch)
        message = ctypes.create_string_buffer(256)
        failed = library(launch.channels, self.source).shim_launch(
            launch.kernel.encode(),
            launch.blocks,
            launch.threads,
            launch.shared_bytes,
            ctypes.c_void_p(launch.task.ctypes.data),
            int(self.descending),
            message,
        )
        if failed:
            raise RuntimeError(message.value.decode())


@contextmanager
def installed(launcher: ShimLauncher | None = None) -> Iterator[ShimLauncher]:
    """CPU tensors go to the shim within the block."""
    launcher = launcher or ShimLauncher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cuda_launch.LAUNCHERS, "cpu", launcher)
        yield launcher


def record(launch: Launch, path: Path) -> None:
    """Write a launch for the program of ``build(..., ("-DSHIM_MAIN", ...))``: the whole memory of every tensor."""
    parts = [launch.kernel.encode().ljust(64, b"\0")]
    parts.append(struct.pack("4i", launch.blocks, launch.threads, launch.shared_bytes, len(launch.tensors)))
    parts.append(launch.task.tobytes())
    for name, tensor in launch.tensors.items():
        assert TASK.fields is not None
        data = memory_of(tensor)
        parts += [struct.pack("2q", TASK.fields[name][1], len(data)), data]
    path.write_bytes(b"".join(parts))


def memory_of(tensor: torch.Tensor) -> bytes:
    """All that a tensor's pointer may reach, in the order of memory."""
    storage = tensor.untyped_storage()
    assert storage.data_ptr() == tensor.data_ptr()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def run_recorded(
    launch: Launch, program: Path, path: Path, *, descending: bool = False
) -> subprocess.CompletedProcess[str]:
    """Record a launch and let the program run it; what it wrote to its arrays replaces the record."""
    record(launch, path)
    command = [str(program), str(path), *(["descending"] if descending else [])]
    # A race may leave threads at different barriers for good: the first one found ends the program.
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def written(launch: Launch, path: Path) -> dict[str, bytes]:
    """What the program left in each array."""
    data, found, at = path.read_bytes(), {}, 0
    for name, tensor in launch.tensors.items():
        found[name] = data[at : at + len(memory_of(tensor))]
        at += len(found[name])
    return found
