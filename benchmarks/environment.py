"""What every result records beside its figures: the machine and the versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import gsdata
import gsdata_tools

PACKAGES = (
    "numpy",
    "numba",
    "torch",
    "zstandard",
    "pillow",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "nvidia-cuda-nvrtc",
    "gsplat",
)


def hardware() -> dict[str, Any]:
    """What this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cpus": os.cpu_count(), "machine": platform.machine()}


def versions() -> dict[str, str]:
    """Python, and each package that is installed."""
    found = {"python": platform.python_version(), "gsdata": gsdata.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_digest() -> str:
    """SHA-256 (hex) of all Python sources of gsdata and its tools."""
    digest = hashlib.sha256()
    for package in (gsdata, gsdata_tools):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
