"""Random damage to the vectors of spec/, read by three readers. Run: python fuzz/run.py --seconds 300.

Half of the inputs and more have right checksums and lengths, a quarter and more another header or other codes (gsdata.mutating).
What must not happen is kept in fuzz/found/. The same seed and number of processes try the same inputs in the same order.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
import oracle
from gsdata import mutating

FOUND = Path(__file__).resolve().parent / "found"
BATCH = 2000
"""Files for one process of the reader in JavaScript."""
TRACED = 256
"""One file in so many is read with every allocation traced, the others where the process grew."""
LONG = ("header-limit-values.gsd", "value-limit-gaussians.gsd")
"""Vectors that take a tenth of a second; the same is made from good files now and then."""
DECODER = ("zstd-", "header-zstd-")
"""Vectors whose zstd frames are no encoder's."""


KINDS_OF_PROBLEMS = ("crash", "hang", "allocation", "disagreement")
MOST_PROBLEMS = 50
"""After so many a process gives up."""
MOST_MESSAGES = 100
"""Messages without a rule that are kept apart."""
SAVED = 20.0
"""Seconds after which a process writes down what it has tried; a run that is killed loses no more."""
TOLD = 60.0
"""Seconds between two lines about the progress."""


class Seed(NamedTuple):
    """A vector to start from: its bytes, whether it is a good file, and whether its zstd frames are an encoder's."""

    data: bytes
    good: bool
    framed: bool


def seeds() -> dict[str, list[Seed]]:
    """For every kind of mutation the vectors to start from. Bad ones are one seed in six, and none where codes or values change."""
    good = sorted(oracle.VECTORS.glob("[rv]*/*.gsd"))
    bad = [path for path in sorted(oracle.VECTORS.glob("i*/*.gsd")) if path.name not in LONG]
    every = [Seed(path.read_bytes(), path in good, not path.name.startswith(DECODER)) for path in (*good, *bad)]
    kept = [seed for seed in every if seed.good]
    mixed = kept * (5 * len(bad) // len(kept)) + every[len(kept) :]
    return {"damaged": mixed, "repaired": mixed, "header": kept, "codes": kept}


class Run:
    """What one process tries and finds.

    Attributes:
        counts: inputs by kind, by what became of them, and problems.
        rules: refusals by rule; from_good: those of files that were made from good ones.
        slowest: for each reader the most seconds that a file took.
    """

    def __init__(self, seed: int, javascript: bool, scratch: Path) -> None:
        self.rng = random.Random(seed)
        self.seeds, self.javascript = seeds(), javascript
        self.oracle = oracle.Oracle()
        self.counts: Counter[str] = Counter()
        self.rules: Counter[str] = Counter(dict.fromkeys(self.oracle.rules, 0))
        self.from_good = self.rules.copy()
        self.slowest: dict[str, float] = {}
        self.problems: list[str] = []
        self.waiting: list[tuple[bytes, str]] = []
        # What is read at the moment, for the case that this process ends.
        with scratch.open("wb") as file:
            file.truncate(1 << 23)
        with scratch.open("r+b") as file:
            self.scratch = mmap.mmap(file.fileno(), 1 << 23)

    def report(self) -> dict[str, Any]:
        """What it has found so far."""
        rules = {"rules": dict(self.rules), "from_good": dict(self.from_good)}
        return {"counts": dict(self.counts), **rules, "slowest": self.slowest, "problems": self.problems}

    def one(self) -> None:
        """Make one file and read it."""
        kind = self.rng.choice(mutating.KINDS)
        seed = self.rng.choice(self.seeds[kind])
        try:
            mutant = mutating.mutate(seed.data, self.rng, kind)
        except ValueError:  # nothing there that this kind could change
            return
        data = mutant.data
        if data == seed.data or 4 + len(data) > len(self.scratch):
            return
        self.scratch[: 4 + len(data)] = len(data).to_bytes(4, "little") + data
        found = self.oracle.read(data, trace=self.counts["inputs"] % TRACED == 0)
        self.counts["inputs"] += 1
        self.counts[kind] += 1
        self.counts["refused" if found.rule else "read"] += not found.problem
        for rule in found.rule.split("/") if found.rule else ():
            self.rules[rule if rule in self.rules or len(self.rules) < MOST_MESSAGES + 200 else "other messages"] += 1
            self.from_good[rule] += seed.good and rule in self.from_good
        if found.problem:
            self.problem(found.problem, found.said, data)
        elif found.large:
            self.counts["too large to compare"] += 1
        elif seed.framed and mutant.whole_frames:
            self.took("gsdata", found.seconds)
            self.compare(data, f"read {found.held}" if found.held else "refused")
        else:
            self.counts["with damaged zstd frames, not compared"] += 1

    def compare(self, data: bytes, expected: str) -> None:
        """Ask the reader in Python, and later the one in JavaScript, whether they say the same."""
        self.judge("spec/reader.py", oracle.by_reader(data), oracle.SLOW_READER, expected, data)
        self.waiting.append((data, expected))
        if len(self.waiting) == BATCH:
            self.ask_javascript()

    def ask_javascript(self) -> None:
        """The verdicts of spec/js on the files that wait."""
        if self.javascript and self.waiting:
            answers = oracle.by_javascript([data for data, _ in self.waiting])
            for (data, expected), answer in zip(self.waiting, answers, strict=True):
                self.judge("spec/js", answer, oracle.SLOW, expected, data)
        self.waiting = []

    def judge(self, who: str, answer: tuple[float, str], slow: float, expected: str, data: bytes) -> None:
        """Whether a reader was in time, and agrees with gsdata on whether the file is good and on what it holds."""
        seconds, said = answer
        self.counts[f"compared with {who}"] += 1
        self.took(who, seconds)
        agrees = said == expected if expected.startswith("read") else said.startswith("refused")
        if said.startswith("hang") or seconds > slow:
            self.problem("hang", f"{who}: {seconds:.2f} s: {said[:300]}", data)
        elif not agrees:
            kind = "crash" if said.startswith("crash") else "disagreement"
            self.problem(kind, f"{who}: {said[:300]}; gsdata: {expected}", data)

    def took(self, who: str, seconds: float) -> None:
        """Keep the longest time of a reader."""
        self.slowest[who] = round(max(seconds, self.slowest.get(who, 0.0)), 3)

    def problem(self, kind: str, said: str, data: bytes) -> None:
        """Count it and keep the file."""
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}.gsd"
        path.write_bytes(data)
        self.counts[kind] += 1
        self.problems.append(f"{kind}: {path}: {said}")


def work(seed: int, seconds: float, inputs: int, javascript: bool, place: Path, stop: Event) -> None:
    """Try files for some time, or so many, or until ``stop`` is set; what was found is in ``place.json`` at any time."""
    if seed % 2 and importlib.util.find_spec("numba"):
        import numba  # noqa: F401 - gsdata decodes rANS by it where it is loaded, else by NumPy
    warnings.simplefilter("error")  # one that a file causes is noise for whoever opens it
    run = Run(seed, javascript, place)
    for path in sorted(oracle.VECTORS.glob("valid/codec-*.gsd")):  # Numba compiles when it first decodes
        run.oracle.read(path.read_bytes())
    end = time.monotonic() + seconds
    saved = time.monotonic()
    while run.counts["inputs"] < inputs and len(run.problems) < MOST_PROBLEMS:
        run.one()
        now = time.monotonic()
        if now > saved + SAVED:
            save(place.with_suffix(".json"), run.report())
            saved = now
        if now > end or stop.is_set():
            break
    run.ask_javascript()
    save(place.with_suffix(".json"), run.report())


def save(path: Path, report: dict[str, Any]) -> None:
    """Write a report so that a reader never sees half of it."""
    path.with_suffix(".part").write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".part").replace(path)


def united(seed: int, jobs: int, places: list[Path]) -> dict[str, Any]:
    """One report of what all processes have written down."""
    whole: dict[str, Any] = {"seed": seed, "jobs": jobs, "problems": [], "slowest": {}}
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("counts", "rules", "from_good")}
    for place in places:
        path = place.with_suffix(".json")
        report = json.loads(path.read_text()) if path.exists() else {}
        for name, counter in sums.items():
            counter.update(report.get(name, {}))
        whole["problems"] += report.get("problems", [])
        for who, seconds in report.get("slowest", {}).items():
            whole["slowest"][who] = max(seconds, whole["slowest"].get(who, 0.0))
    return whole | {name: dict(counter) for name, counter in sums.items()}


def fuzz(
    seed: int, seconds: float, inputs: int, jobs: int, javascript: bool, kept: Path | None = None
) -> dict[str, Any]:
    """Try files in several processes; returns the report, which is also in ``kept`` while they run.

    A process that ends by itself is a crash, and what it was reading is kept. Ctrl-C ends the run early.
    """
    FOUND.mkdir(exist_ok=True)
    places = [FOUND / f"{os.getpid()}-{job}" for job in range(jobs)]
    stop = multiprocessing.Event()
    each = []
    asked = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for this process, which sets ``stop`` for the others
    for job, place in enumerate(places):
        share = inputs // jobs + (job < inputs % jobs)
        each.append(multiprocessing.Process(target=work, args=(seed + job, seconds, share, javascript, place, stop)))
        each[-1].start()
    signal.signal(signal.SIGINT, asked)
    start = told = saved = time.monotonic()
    while any(process.is_alive() for process in each):
        try:
            next((process for process in each if process.is_alive()), each[0]).join(1)
        except KeyboardInterrupt:
            print("stopping; once more: at once", file=sys.stderr)
            if stop.is_set():
                raise
            stop.set()
        now = time.monotonic()
        if kept and now > saved + SAVED:
            save(kept, united(seed, jobs, places))
            saved = now
        if now > told + TOLD:
            report = united(seed, jobs, places)
            done = report["counts"].get("inputs", 0)
            print(
                f"{now - start:,.0f} s: {done:,} inputs, {len(report['problems'])} problems",
                file=sys.stderr,
                flush=True,
            )
            told = now
    report = united(seed, jobs, places)
    for job, (process, place) in enumerate(zip(each, places, strict=True)):
        if process.exitcode:
            data = place.read_bytes() if place.exists() else bytes(4)
            path = FOUND / f"crash-process-{seed + job}.gsd"
            path.write_bytes(data[4 : 4 + int.from_bytes(data[:4], "little")])
            report["counts"]["crash"] = report["counts"].get("crash", 0) + 1
            report["problems"].append(f"crash: a process ended with {process.exitcode}; perhaps by {path}")
        for suffix in ("", ".json", ".part"):
            place.with_suffix(suffix).unlink(missing_ok=True)
    if kept:
        save(kept, report)
    return report


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
    for name in sorted(name for name in counts if name.startswith(("compared", "with", "too"))):
        print(f"  {counts[name]:,} {name}")
    slowest = "; ".join(f"{who} {seconds:.2f} s" for who, seconds in sorted(report["slowest"].items()))
    print(f"  longest time for a file: {slowest}")
    named = {rule: count for rule, count in rules.items() if " " not in rule}
    print("refused by rule of FORMAT.md (where two share a message, counted for both):")
    ordered = sorted(named, key=lambda rule: (rule[0], int(rule[1:])))
    print("  " + "  ".join(f"{rule} {named[rule]:,}" for rule in ordered))
    for rule, count in sorted(rules.items(), key=lambda item: -item[1]):
        if " " in rule:
            print(f"  without a rule {count:,}: {rule}")
    print(f"rules without a refusal: {', '.join(rule for rule in ordered if not named[rule]) or 'none'}")
    never = [rule for rule in ordered if not report["from_good"].get(rule)]
    print(f"rules without a refusal of a file made from a good one: {', '.join(never) or 'none'}")
    print("; ".join(f"{kind}{'es' if kind == 'crash' else 's'} {counts[kind]:,}" for kind in KINDS_OF_PROBLEMS))
    for line in report["problems"][:20]:
        print(line)


def main() -> int:
    """Exit code 1 if anything happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=1 << 60, help="of all processes together, at most")
    parser.add_argument(
        "--seed", type=int, default=1, help="odd: rANS is decoded by Numba where it is installed, else by NumPy"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-javascript", action="store_true")
    parser.add_argument("--json", type=Path, help="write the report there, now and then and at the end")
    arguments = parser.parse_args()
    javascript = not arguments.no_javascript and shutil.which("node") is not None
    if not javascript:
        print("without the reader in JavaScript" + ("" if arguments.no_javascript else ": node is not installed"))
    report = fuzz(arguments.seed, arguments.seconds, arguments.inputs, arguments.jobs, javascript, arguments.json)
    show(report)
    return int(bool(report["problems"]))


if __name__ == "__main__":
    raise SystemExit(main())
