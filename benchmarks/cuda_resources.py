"""What ``splat.cu`` takes of a multiprocessor, from the compiler alone: no GPU and no driver needed.

NVRTC (``pip install 'gsdata[cuda-check]'``) compiles every kernel for every architecture to machine code; its assembler
reports registers, stack, spills and static shared memory. Blocks per multiprocessor follow from the registers.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

from gsdata.kernels import cuda_launch

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
CHANNELS = (1, 2, 3, 4)
_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_\d+'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def find_nvrtc() -> Path | None:
    """NVRTC's library in NVIDIA's wheels, which put it into the folder ``nvidia`` of site-packages."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [
        path
        for folder in folders
        for path in [*Path(folder).rglob("libnvrtc.so.*"), *Path(folder).rglob("nvrtc64_*_0.dll")]
        if ".alt." not in path.name
    ]
    return max(found, key=lambda path: path.name, default=None)


class Nvrtc:
    """The few functions of NVRTC that compile one source."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def architectures(self) -> list[int]:
        """Compute capabilities that it compiles for, as 75, 80, ..."""
        count = ctypes.c_int()
        self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self.library.nvrtcGetSupportedArchs(found)
        return list(found)

    def compile(self, source: str, options: list[str]) -> tuple[bool, str]:
        """Whether it compiled, and the log."""
        program, encoded = ctypes.c_void_p(), [option.encode() for option in options]
        self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"splat.cu", 0, None, None)
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        result = self.library.nvrtcCompileProgram(program, len(encoded), array)
        size = ctypes.c_size_t()
        self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value + 1)
        self.library.nvrtcGetProgramLog(program, log)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return result == 0, log.value.decode()


def resources(nvrtc: Nvrtc, architecture: int, channels: int) -> list[dict[str, Any]]:
    """Compile as CuPy does; what each kernel takes.

    Raises:
        RuntimeError: the source does not compile without a warning.
    """
    options = [f"--gpu-architecture=sm_{architecture}", "--device-as-default-execution-space"]
    options += [*cuda_launch.options(channels), "--ptxas-options=-v"]
    compiled, log = nvrtc.compile(cuda_launch.SOURCE.read_text(), options)
    if not compiled or "warning" in log:
        raise RuntimeError(f"sm_{architecture}, {channels} channels: {log}")
    found = []
    for entry in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        found.append(
            {
                "architecture": architecture,
                "channels": channels,
                "kernel": entry["kernel"],
                "registers": int(entry["registers"]),
                "stack_bytes": int(entry["stack"]),
                "spill_bytes": int(entry["stores"]) + int(entry["loads"]),
                "static_shared_bytes": int(shared[1]) if shared else 0,
            }
        )
    return found


def main() -> int:
    """Compile, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="benchmarks/results/cuda_resources.json")
    arguments = parser.parse_args()
    path = find_nvrtc()
    if path is None:
        print("NVRTC is missing: pip install 'gsdata[cuda-check]'", file=sys.stderr)
        return 2
    from environment import versions

    nvrtc = Nvrtc(path)
    kernels = [entry for arch in ARCHITECTURES for count in CHANNELS for entry in resources(nvrtc, arch, count)]
    result = {
        "command": " ".join(["python", "benchmarks/cuda_resources.py", *sys.argv[1:]]),
        "nvrtc": nvrtc.version,
        "nvrtc_bytes": sum(file.stat().st_size for file in path.parent.glob("libnvrtc*")),
        "source_bytes": cuda_launch.SOURCE.stat().st_size,
        "gaussian_shared_bytes": cuda_launch.GAUSSIAN_BYTES,
        "versions": versions(),
        "kernels": kernels,
    }
    Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")
    print("sm    channels  kernel                    registers  spilled  static shared")
    for each in kernels:
        print(
            f"{each['architecture']:<5} {each['channels']:<9} {each['kernel']:<25} {each['registers']:<10} "
            f"{each['spill_bytes']:<8} {each['static_shared_bytes']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
