"""Which tests run where: data sets, GPUs, slow tests, and one setting of hypothesis for all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import settings

# A failure must be the same failure on the next run and on another machine; the time of one example means little on shared cores.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# As the commands do it: idle threads of torch that spin make tests on shared cores ten times slower. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Numba's cache does not notice when a function that a kernel calls changes in another file: sources with other kernels get
# a cache of their own. Set before any test imports numba; processes that tests start inherit it.
_ROOT = Path(__file__).parents[1]
_KERNELS = sorted(
    [*_ROOT.glob("gsdata/kernels/*.py"), *_ROOT.glob("gsdata/rans/*.py"), *_ROOT.glob("tools/gsdata_tools/*kernels.py")]
)
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _KERNELS)).hexdigest()[:12]
os.environ.setdefault("NUMBA_CACHE_DIR", str(_ROOT / ".pytest_cache" / f"numba-{_DIGEST}"))

_HINTS = {
    "chromium": "they look at the page of gsd-inspect --html; install chromium",
    "data": "set GSDATA_DATA to a folder with cifar-10-batches-bin/, mnist/ or imagenette-128/ to run them",
    "g++": "they compile the CUDA source for the CPU; install g++",
    "gpu": "they need a CUDA device, and CuPy: pip install 'gsdata[cuda12]' or 'gsdata[cuda13]'",
    "node": "they run the reader in JavaScript and the modules of the page; install Node 18 or newer",
    "nvrtc": "they compile the CUDA source for GPUs: pip install 'gsdata[cuda-check]'",
    "slow": "run them with: make test-slow (or GSDATA_SLOW=1)",
}


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _slow_wanted(config: pytest.Config) -> bool:
    """Slow tests run when asked for: by -m, by GSDATA_SLOW=1, or by naming one test."""
    by_name = any("::" in str(argument) for argument in config.invocation_params.args)
    return "slow" in config.getoption("-m") or os.environ.get("GSDATA_SLOW", "") not in ("", "0") or by_name


def _missing_data(marker: pytest.Mark) -> str | None:
    """Why a test marked ``data`` cannot run: ``@pytest.mark.data`` needs the folder, ``data("mnist")`` that set in it."""
    root = os.environ.get("GSDATA_DATA", "")
    if not root:
        return "GSDATA_DATA is not set"
    if not Path(root).is_dir():
        return f"GSDATA_DATA={root} is no folder"
    from gsdata_tools.sources import load
    from gsdata_tools.usage import UsageError

    for name in marker.args:
        try:
            load(name, limit=1)
        except UsageError as error:
            return str(error)
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run; each reason starts with the marker, which the summary counts."""
    slow, cuda = _slow_wanted(config), None
    for item in items:
        if (marker := item.get_closest_marker("data")) is not None and (why := _missing_data(marker)):
            item.add_marker(pytest.mark.skip(reason=f"data: {why}"))
        if item.get_closest_marker("gpu") is not None:
            cuda = _has_cuda() if cuda is None else cuda
            if not cuda:
                item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))
        if item.get_closest_marker("slow") is not None and not slow:
            item.add_marker(pytest.mark.skip(reason="slow: not asked for"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud, just above the closing line, what was not tested and how to test it."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for kind, hint in _HINTS.items():
        if count := sum(f"Skipped: {kind}: " in reason for reason in reasons):
            plural = "test was" if count == 1 else "tests were"
            terminalreporter.write_line(f"NOT TESTED: {count} {kind} {plural} skipped; {hint}", yellow=True)
