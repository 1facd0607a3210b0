"""Random damage to the vectors of spec/, read by three readers. Run: python fuzz/run.py --seconds 300.

Half of the inputs and more have right checksums and lengths, a quarter and more another header or other codes (gsdata.mutating).
What must not happen is kept in fuzz/found/. The same seed and number of processes try the same inputs in the same order.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import mmap
import random
import shutil
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import oracle
from gsdata import mutating

FOUND = Path(__file__).resolve().parent / "found"
BATCH = 2000
"""Files for one process of the reader in JavaScript."""
TRACED = 256
"""One file in so many is read with every allocation traced, the others where the process grew."""
LONG = ("header-limit-values.gsd", "value-limit-gaussians.gsd")
"""Vectors that take a tenth of a second."""
DECODER = ("zstd-", "header-zstd-")
"""Vectors whose zstd frames are no encoder's."""


def seeds() -> dict[str, list[tuple[bytes, bool]]]:
    """For every kind of mutation the vectors to start from, and whether their frames are an encoder's."""
    good = [path for path in sorted(oracle.VECTORS.glob("[rv]*/*.gsd")) for _ in range(40)]
    bad = [path for path in sorted(oracle.VECTORS.glob("i*/*.gsd")) for _ in range(1 if path.name in LONG else 20)]
    read = functools.lru_cache(None)(Path.read_bytes)
    good, every = ([(read(path), not path.name.startswith(DECODER)) for path in paths] for paths in (good, good + bad))
    return {"damaged": every, "repaired": every, "header": good, "codes": good}


class Run:
    """What one process tries and finds."""

    def __init__(self, seed: int, javascript: bool, scratch: Path) -> None:
        self.rng = random.Random(seed)
        self.seeds, self.javascript = seeds(), javascript
        self.oracle = oracle.Oracle()
        self.counts: Counter[str] = Counter()
        self.rules: Counter[str] = Counter(dict.fromkeys(self.oracle.rules, 0))
        self.problems: list[str] = []
        self.waiting: list[tuple[bytes, str]] = []
        # What is read at the moment, for the case that this process ends.
        with scratch.open("wb") as file:
            file.truncate(1 << 23)
        with scratch.open("r+b") as file:
            self.scratch = mmap.mmap(file.fileno(), 1 << 23)

    def one(self) -> None:
        """Make one file and read it."""
        kind = self.rng.choice(mutating.KINDS)
        base, framed = self.rng.choice(self.seeds[kind])
        try:
            mutant = mutating.mutate(base, self.rng, kind)
        except ValueError:  # nothing there that this kind could change
            return
        data = mutant.data
        if data == base:
            return
        self.scratch[: 4 + len(data)] = len(data).to_bytes(4, "little") + data
        found = self.oracle.read(data, trace=self.counts["inputs"] % TRACED == 0)
        self.counts["inputs"] += 1
        self.counts[kind] += 1
        self.counts["refused" if found.rule else "read"] += not found.problem
        for rule in found.rule.split("/") if found.rule else ():
            self.rules[rule] += 1
        if found.problem:
            self.problem(found.problem, found.said, data)
        elif found.large:
            self.counts["too large to compare"] += 1
        elif framed and mutant.whole_frames:
            self.compare(data, f"read {found.held}" if found.held else "refused")
        else:
            self.counts["with damaged zstd frames, not compared"] += 1

    def compare(self, data: bytes, expected: str) -> None:
        """Ask the reader in Python, and later the one in JavaScript, whether they say the same."""
        said = oracle.by_reader(data)
        self.judge("spec/reader.py", said, expected, data)
        self.waiting.append((data, expected))
        if len(self.waiting) == BATCH:
            self.ask_javascript()

    def ask_javascript(self) -> None:
        """The verdicts of spec/js on the files that wait."""
        if self.javascript and self.waiting:
            for (data, expected), (seconds, said) in zip(
                self.waiting, oracle.by_javascript([data for data, _ in self.waiting]), strict=True
            ):
                self.judge("spec/js", said, expected, data)
                self.counts["over 1 s in spec/js"] += seconds > 1
        self.waiting = []

    def judge(self, who: str, said: str, expected: str, data: bytes) -> None:
        """Whether a reader agrees with gsdata: on whether the file is good, and on what it holds."""
        self.counts[f"compared with {who}"] += 1
        agrees = said == expected if expected.startswith("read") else said.startswith("refused")
        if not agrees:
            kind = "crash" if said.startswith("crash") else "disagreement"
            self.problem(kind, f"{who}: {said[:300]}; gsdata: {expected}", data)

    def problem(self, kind: str, said: str, data: bytes) -> None:
        """Count it and keep the file."""
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}.gsd"
        path.write_bytes(data)
        self.counts[kind] += 1
        self.problems.append(f"{kind}: {path}: {said}")


def work(
    seed: int, seconds: float, inputs: int, javascript: bool, scratch: Path
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Try files for some time, or so many."""
    if seed % 2 and importlib.util.find_spec("numba"):
        import numba  # noqa: F401 - gsdata decodes rANS by it where it is loaded, else by NumPy
    run = Run(seed, javascript, scratch)
    end = time.monotonic() + seconds
    while run.counts["inputs"] < inputs and time.monotonic() < end and len(run.problems) < 50:
        run.one()
    run.ask_javascript()
    return dict(run.counts), dict(run.rules), run.problems


def fuzz(seed: int, seconds: float, inputs: int, jobs: int, javascript: bool) -> dict[str, Any]:
    """Try files in several processes; returns the report."""
    FOUND.mkdir(exist_ok=True)
    counts: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    problems: list[str] = []
    scratch = [FOUND / f"reading-{job}" for job in range(jobs)]
    with ProcessPoolExecutor(jobs) as pool:
        each = [pool.submit(work, seed + job, seconds, inputs, javascript, scratch[job]) for job in range(jobs)]
        for job, future in enumerate(each):
            try:
                more, refused, said = future.result()
            except BrokenProcessPool:
                kept = scratch[job].with_name(f"crash-process-{job}.gsd")
                data = scratch[job].read_bytes()
                kept.write_bytes(data[4 : 4 + int.from_bytes(data[:4], "little")])
                more, refused, said = {"crash": 1}, {}, [f"crash: a process ended; perhaps by {kept}"]
            counts.update(more)
            rules.update(refused)
            problems += said
    for path in scratch:
        path.unlink(missing_ok=True)
    return {"seed": seed, "jobs": jobs, "counts": dict(counts), "rules": dict(rules), "problems": problems}


def show(report: dict[str, Any]) -> None:
    """Print what was tried and found."""
    counts, rules = Counter(report["counts"]), report["rules"]
    total = max(1, counts["inputs"])
    print(f"{counts['inputs']:,} inputs: {counts['refused']:,} refused, {counts['read']:,} read")
    right = sum(counts[kind] for kind in mutating.KINDS if kind != "damaged")
    structural = counts["header"] + counts["codes"]
    print(
        f"  {right / total:.0%} with right checksums and lengths; {structural / total:.0%} with another header or other codes"
    )
    for name in sorted(name for name in counts if name.startswith(("compared", "with", "too", "over"))):
        print(f"  {counts[name]:,} {name}")
    named = {rule: count for rule, count in rules.items() if " " not in rule}
    print("refused by rule of FORMAT.md (where two share a message, counted for both):")
    ordered = sorted(named, key=lambda rule: (rule[0], int(rule[1:])))
    print("  " + "  ".join(f"{rule} {named[rule]:,}" for rule in ordered))
    for rule, count in sorted(rules.items(), key=lambda item: -item[1]):
        if " " in rule:
            print(f"  without a rule {count:,}: {rule}")
    print(f"rules without a refusal: {', '.join(rule for rule in ordered if not named[rule]) or 'none'}")
    kinds = ("crash", "hang", "allocation", "disagreement")
    print("; ".join(f"{kind}s {counts[kind]:,}" if kind != "crash" else f"crashes {counts[kind]:,}" for kind in kinds))
    for line in report["problems"][:20]:
        print(line)


def main() -> int:
    """Exit code 1 if anything happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=1 << 60, help="of each process, at most")
    parser.add_argument(
        "--seed", type=int, default=1, help="odd: rANS is decoded by Numba where it is installed, else by NumPy"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-javascript", action="store_true")
    parser.add_argument("--json", type=Path, help="write the report there")
    arguments = parser.parse_args()
    javascript = not arguments.no_javascript and shutil.which("node") is not None
    if not javascript:
        print("without the reader in JavaScript" + ("" if arguments.no_javascript else ": node is not installed"))
    report = fuzz(arguments.seed, arguments.seconds, arguments.inputs, arguments.jobs, javascript)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(bool(report["problems"]))


if __name__ == "__main__":
    raise SystemExit(main())
