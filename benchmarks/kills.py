"""What is left when commands are killed: each command that writes, at any moment, again and again until it has ended.

A command is started, killed, started again as it says itself (``--resume``), killed again, until a run comes to its end; then the next such chain
begins. After every kill nothing but a whole file, the new one or the one that it replaces, may be under a final name,
and every state in a checkpoint must load. At the end the bytes must be those of an undisturbed run, and nothing else may be left. In every
other chain an older result is overwritten. Stops by Ctrl-C and SIGTERM are tried in the same way. Exit code 1 if anything was lost.

Runs are small, save after every step and have one thread (``quicken``); ``killing.py`` says how they are killed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
import killing
from environment import hardware, versions
from gsdata.testing import make_codes
from gsdata_tools import (
    blocks,
    distill,
    distillation,
    distilling,
    encode,
    encode_run,
    encode_shards,
    experts,
    experts_run,
    export,
    monitors,
    sources,
)

WAYS = ("clock", "step", "write")
LAZY = (
    "gsdata.kernels.differentiable",
    "gsdata.rans.compiled",
    "gsdata_tools.export_formats",
    "gsdata_tools.norm_pool",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "PIL.ImageDraw",
    "PIL.PngImagePlugin",
    "pyarrow.parquet",
    "safetensors.numpy",
    "torch._dynamo",
    "torch.utils._sympy.functions",
)
"""What commands import when they need it: here before, so that runs are short."""
STOPS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


@dataclass(frozen=True)
class Command:
    """A command line that is killed.

    Attributes:
        name: for the report.
        body: what runs it.
        words: its arguments but the output.
        output: name of the file or folder that it writes.
        again: what is added when it is started again.
        whole: all files of the output come at once.
    """

    name: str
    body: killing.Body
    words: tuple[str, ...]
    output: str
    again: tuple[str, ...] = ("--resume",)
    whole: bool = False


@dataclass
class Tally:
    """What was done to a command, and what was lost, in words."""

    runs: int = 0
    chains: int = 0
    kills: dict[str, Counter[str]] = field(default_factory=lambda: {way: Counter() for way in WAYS})
    stops: dict[str, Counter[str]] = field(default_factory=lambda: {way: Counter() for way in STOPS})
    most_temporaries: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        """Number of kills."""
        return sum(counts.total() for counts in self.kills.values())


def quicken() -> None:
    """In a child: checkpoints after every step, small blocks, one thread."""
    os.cpu_count = lambda: 1
    os.environ["GSDATA_NUM_THREADS"] = "1"
    distilling.SAVE_SECONDS = experts_run.SAVE_SECONDS = 0.0
    distillation.WEIGH_EVERY, monitors.EVERY, distillation.PILOT_IMAGES = 3, 4, 4
    blocks.BLOCK_PIXELS, encode_shards.GROUP_BYTES = 8 * 28 * 28, 6 * 28 * 28


def small(name: str, main: Callable[[list[str]], int]) -> killing.Body:
    """A command as it runs in a child."""

    def body(words: list[str]) -> int:
        quicken()
        sys.argv = [name, *words]
        return main(words)

    return body


def commands(folder: Path, data: str, limit: int) -> list[Command]:
    """Every command that writes; what they need is made here."""
    images = ("--data", str(folder / "data.npz"), "--quiet")
    for name, number in (("data", limit), ("few", 60)):
        found = sources.load(data, limit=number, balanced_seed=0)
        np.savez(folder / f"{name}.npz", x=found.images, y=found.labels, classes=np.array(found.classes))
    few = ("--data", str(folder / "few.npz"), "--quiet")
    fitted = (*images, "--limit", "40", "--steps", "20")
    fast = ("--model", "ConvNet-D1", "--fit-steps", "20", "--images-per-class", "2", "--iterations", "8")
    matched = (*images, *fast, "--bytes", "6000", "--pretrain", "1", "2", "--batch-real", "8", "--recycle")
    trained = (*few, "--model", "ConvNet-D1", "--batch-size", "30", "--epochs", "3")
    students = ("--expert-dir", str(folder / "experts"), "--syn-steps", "2", "--batch-syn", "4", "--expert-epochs", "1")
    made = Command("", small("gsd-experts", experts.main), (*trained, "--experts", "2"), "experts")
    _run_to_its_end(made, folder)
    distilled = small("gsd-distill", distill.main)
    encoded, exported = small("gsd-encode", encode.main), small("gsd-export", export.main)
    source = Command("", encoded, (*fitted, "--gaussians", "4"), "source.gsd")
    _run_to_its_end(source, folder)
    file, forced = str(folder / "source.gsd"), ("--force",)
    return [
        Command("gsdata.save", _save, (), "x.gsd", ()),
        Command("gsd-encode", encoded, (*fitted, "--gaussians", "6"), "x.gsd"),
        Command("gsd-encode --bytes-per-image", encoded, (*fitted, "--bytes-per-image", "60"), "x.gsd"),
        Command("gsd-encode --shards", encoded, (*fitted, "--gaussians", "6", "--shards", "3"), "shards"),
        Command("gsd-distill dm", distilled, ("dm", *matched, "--rate-weight", "0.01"), "x.gsd"),
        Command("gsd-distill dc", distilled, ("dc", *matched, "--outer-loop", "3"), "x.gsd"),
        Command("gsd-distill tm", distilled, ("tm", *few, *fast, "--bytes", "6000", *students), "x.gsd"),
        Command("gsd-experts", small("gsd-experts", experts.main), (*trained, "--experts", "3"), "experts"),
        Command("gsd-export --to png", exported, (file, "--to", "png", "--quiet"), "png", forced, True),
        Command("gsd-export --to npz", exported, (file, "--to", "npz", "--quiet"), "x.npz", forced, True),
        Command("gsd-export --to parquet", exported, (file, "--to", "parquet", "--quiet"), "parquet", forced, True),
    ]


def _save(words: list[str]) -> None:
    quicken()
    seed = int(words[words.index("--seed") + 1]) if "--seed" in words else 0
    gsdata.save(words[words.index("-o") + 1], make_codes(seed, [400] * 100), level=1)


def _run_to_its_end(command: Command, folder: Path, *more: str) -> killing.Ended:
    ended = killing.run(command.body, [*command.words, *more, "-o", str(folder / command.output)], folder)
    if ended.code:
        raise SystemExit(f"{command.name} {' '.join(command.words)}: exit code {ended.code}\n{ended.said}")
    return ended


class Trial:
    """A command, what it makes undisturbed, and what happened to it."""

    def __init__(self, command: Command, folder: Path, seed: int) -> None:
        self.command, self.tally = command, Tally()
        self.draws = random.Random(f"{seed} {command.name}")  # noqa: S311 - draws moments, not secrets
        self.folder, self.older = folder / "work", folder / "older"
        self.steps: list[int] = []
        # An older result differs by what decides it: another seed, or for exports another size.
        other = ("--size", "14") if command.whole else ("--seed", "1")
        for made, more in ((self.older, other), (self.folder, ())):
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            self.undisturbed = _run_to_its_end(command, made, *more)
        self.old, self.new = killing.contents(self.older), killing.contents(self.folder)
        self.largest = max(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def chain(self, ways: tuple[str, ...]) -> None:
        """Start, end before its time, start again, until a run ends by itself."""
        over = self.tally.chains % 2 == 1
        self._prepare(over)
        words: list[str] = ["--force"] if over and self.command.again else []
        while not self.tally.lost:
            way = self.draws.choice(ways)
            ended = self._run(words, way)
            self.tally.runs += 1
            if over and ended.code == 2 and "start again with --force and without --resume" in ended.said:
                words = ["--force"]  # it was killed before it had removed all that it overwrites
                continue
            if not self._was_ended(ended, way):
                break
            self._look(over)
            words = [*(["--force"] if over else []), *self.command.again]
        self.tally.chains += 1

    def progress(self) -> dict[str, int]:
        """Kill each run as soon as it has saved two states, one of which may be the one that it went on from; until a run ends."""
        self._prepare(False)
        words: list[str] = []
        for runs in range(1, self.undisturbed.steps):
            ended = killing.run(self.command.body, self._line(words), self.folder, saves=2)
            words = [*self.command.again]
            if ended.code == 0:
                self._look(False, at_the_end=True)
                return {"kills": runs - 1}
            if ended.code != -signal.SIGKILL:
                self.tally.lost.append(f"exit code {ended.code}: {ended.said}")
                return {}
        self.tally.lost.append(f"no end after {runs} runs that each saved two states")
        return {}

    def _prepare(self, over: bool) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.older, self.folder) if over else self.folder.mkdir()

    def _line(self, words: list[str]) -> list[str]:
        return [*self.command.words, *words, "-o", str(self.folder / self.command.output)]

    def _run(self, words: list[str], way: str) -> killing.Ended:
        limits: dict[str, Any] = {}
        if way == "step":
            # Each in turn; a run that goes on first removes what the last one left.
            self.steps = self.steps or self.draws.sample(
                range(1, self.undisturbed.steps + 2), self.undisturbed.steps + 1
            )
            limits["step"] = self.steps.pop()
        elif way == "write":
            limits["size"] = round(2 ** self.draws.uniform(4, np.log2(2 * self.largest)))
        else:
            share = self.draws.choice((0.3, 1.05))
            limits["after"] = self.draws.uniform(0, share * self.undisturbed.seconds)
            limits["by"] = STOPS.get(way, signal.SIGKILL)
        return killing.run(self.command.body, self._line(words), self.folder, **limits)

    def _was_ended(self, ended: killing.Ended, way: str) -> bool:
        """Count how a run ended; whether it was before its time."""
        if ended.code in (-signal.SIGKILL, -signal.SIGXFSZ):
            kind = "checkpoint" if ended.moment.startswith("checkpoint") else "output"
            moment = {"clock": ended.moment, "step": f"before it could {ended.step}", "write": f"{kind} being written"}
            self.tally.kills[way][moment[way]] += 1
            return True
        if way in STOPS and ended.code:
            said = ended.said.strip()
            self.tally.stops[way][f"exit code {ended.code}"] += 1
            left = [*self.folder.glob("*.ckpt")]
            wanted = "to continue: " if left else "stopped; nothing was written"
            if not ended.steps and ended.code in (-STOPS[way], 70) and "main_function" not in said:
                return True  # before the command took charge of signals
            if (
                ended.code != 130
                or len(said.splitlines()) != 1
                or wanted not in said
                or killing.temporaries(self.folder)
            ):
                self.tally.lost.append(
                    f"{way}: exit code {ended.code}, {killing.temporaries(self.folder)}, said: {said}"
                )
            return True
        over = ended.code == 2 and killing.contents(self.folder) == self.new and not [*self.folder.glob("*.ckpt")]
        if ended.code and not over:  # 2: it was killed after its work was done
            self.tally.lost.append(f"exit code {ended.code}: {ended.said}")
        self._look(False, at_the_end=True)
        return False

    def _look(self, over: bool, at_the_end: bool = False) -> None:
        """Note what is lost in the folder as it is now."""
        found, left = killing.contents(self.folder), killing.temporaries(self.folder)
        self.tally.most_temporaries = max(self.tally.most_temporaries, len(left))
        for name, data in found.items():
            if data != self.new.get(name) and not (over and data == self.old.get(name)):
                self.tally.lost.append(f"{name} is neither the new nor the old one")
        if self.command.whole and found not in ((self.new, self.old) if over else (self.new, {})):
            self.tally.lost.append(f"a part of the output is there: {sorted(found)}")
        for ckpt in self.folder.glob("*.ckpt"):
            self.tally.lost += killing.torn(ckpt)
        if at_the_end and (found != self.new or left or [*self.folder.glob("*.ckpt")]):
            wrong = sorted(name for name in {*found, *self.new} if found.get(name) != self.new.get(name))
            self.tally.lost.append(f"at the end {wrong} are not what they should be, and {left} are left")


def measure(command: Command, folder: Path, kills: int, stops: int, seed: int) -> dict[str, Any]:
    """Chains of kills and of stops until there are so many."""
    trial = Trial(command, folder, seed)
    tally = trial.tally
    while tally.killed < kills and not tally.lost:
        trial.chain(WAYS)
    progress = {}
    if "--resume" in command.again and not tally.lost:
        progress = trial.progress()
    stoppable = command.again and not tally.lost
    while stoppable and sum(c.total() for c in tally.stops.values()) < stops and not tally.lost:
        trial.chain(tuple(STOPS))
    return {
        "name": command.name,
        "words": [word.replace(str(folder), "WORK") for word in command.words],
        "undisturbed": {"seconds": round(trial.undisturbed.seconds, 3), "steps": trial.undisturbed.steps},
        "kills": tally.killed,
        "killed": {way: dict(sorted(counts.items())) for way, counts in tally.kills.items()},
        "stopped": {way: dict(counts) for way, counts in tally.stops.items()},
        "runs": tally.runs,
        "chains": tally.chains,
        "killed_after_two_saves": progress,
        "most_temporaries": tally.most_temporaries,
        "lost": tally.lost,
    }


def main() -> int:
    """Kill, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="real images")
    parser.add_argument("--limit", type=int, default=200, help="how many of them")
    parser.add_argument("--kills", type=int, default=60, help="of each command, at least")
    parser.add_argument("--saves", type=int, default=200, help="kills of gsdata.save, at least")
    parser.add_argument("--stops", type=int, default=20, help="by Ctrl-C and SIGTERM, of each command, at least")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="commands whose names contain one of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/kills.json"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "This process.*is multi-threaded, use of fork", DeprecationWarning)
    os.environ["GSDATA_NUM_THREADS"] = "1"
    encode_run.compile_kernels()  # children inherit them, and what is imported
    for name in LAZY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        results = []
        for command in commands(folder, options.data, options.limit):
            if options.only and not any(word in command.name for word in options.only):
                continue
            wanted = options.saves if command.body is _save else options.kills
            results.append(measure(command, folder, wanted, options.stops, options.seed))
            print({key: results[-1][key] for key in ("name", "kills", "runs", "lost")}, flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]),
        "kills": sum(one["kills"] + one["killed_after_two_saves"].get("kills", 0) for one in results),
        "stops": sum(sum(counts.values()) for one in results for counts in one["stopped"].values()),
        "lost": sum(len(one["lost"]) for one in results),
        "commands": results,
        "seed": options.seed,
        "versions": versions(),
        "hardware": hardware(),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['kills']} kills and {result['stops']} stops, {result['lost']} things lost")
    return int(result["lost"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
