"""Which branches of reading and writing the vectors and fuzzing reach: python fuzz/branches.py; exit 1 below 98 %.

It runs all vectors, opened as bytes and by path, damaged files made from them, and the properties of ``writing.py``. Needs coverage.py:
pip install 'gsdata[fuzz]'. (Not called coverage.py itself: who imports that must not find this.)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
try:
    import coverage
except ModuleNotFoundError:
    sys.exit("this needs coverage.py, which is not installed: pip install 'gsdata[fuzz]'")

PACKAGE = Path(__file__).resolve().parents[1] / "gsdata"
MODULES = ("byte_source.py", "container.py", "file.py", "quantize.py")
LEAST = 98.0


def watched(inputs: int, examples: int, seed: int) -> dict[str, Any]:
    """Run everything under branch coverage; the report of coverage.py as a map."""
    if any(name.startswith("gsdata.") for name in sys.modules):
        raise RuntimeError("gsdata was imported before its branches are watched")
    watch = coverage.Coverage(
        branch=True, data_file=None, config_file=False, include=[str(PACKAGE / name) for name in MODULES]
    )
    watch.start()
    try:
        import run
        import writing

        with tempfile.TemporaryDirectory() as folder:
            for path in sorted(run.oracle.VECTORS.glob("*/*.gsd")):
                writing.check_both_ways(path.read_bytes(), path)
            tries = run.Run(seed, False, Path(folder) / "scratch")
            while tries.counts["inputs"] < inputs and not tries.problems:
                tries.one()
            if tries.problems:
                raise AssertionError(tries.problems[0])
            writing.run(examples, seed)
    finally:
        watch.stop()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        watch.json_report(outfile=str(out))
        report: dict[str, Any] = json.loads(out.read_text())
    return report


def show(report: dict[str, Any]) -> bool:
    """Print what was reached and what was not; whether it is enough."""
    enough = True
    for name in MODULES:
        (found,) = (file for path, file in report["files"].items() if Path(path).name == name)
        summary = found["summary"]
        share = 100 * summary["covered_branches"] / summary["num_branches"]
        enough &= share >= LEAST
        print(
            f"{name}: {share:.1f} % of {summary['num_branches']} branches, {len(found['missing_lines'])} lines not reached"
        )
        for start, end in found["missing_branches"]:
            line = (PACKAGE / name).read_text().splitlines()[start - 1].strip()
            print(f"  line {start} never goes to {'its end' if end < 0 else f'line {end}'}: {line}")
    return enough


def main() -> int:
    """Exit code 1 where fewer than ``LEAST`` percent of a module's branches are reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000, help="damaged files")
    parser.add_argument("--examples", type=int, default=30, help="of every property of writing")
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    return int(not show(watched(arguments.inputs, arguments.examples, arguments.seed)))


if __name__ == "__main__":
    raise SystemExit(main())
