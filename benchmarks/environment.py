"""What every result records beside its figures: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import gsdata

PACKAGES = ("numpy", "numba", "torch", "zstandard", "pillow")


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
