"""Who is attacked: a process with little memory that opens files, and the verdict on what became of it.

An attack is a name for what was tried and a file, as bytes. ``refused`` expects that reading it ends in a ``GsdError`` of one
line, ``harmless`` that it is read and nothing else happens. Neither may take more memory or time than below, or end the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import gsdata
from gsdata import testing

MIB = 1 << 20
MEMORY = 64 * MIB
"""Most that reading may allocate beside the file's own size (FORMAT.md, "Limits")."""
ADDRESS_SPACE = 256 * MIB
"""What the victim may map on top of what Python and NumPy take."""
SECONDS = 20.0
"""Most time of a processor for one file, on a slow machine."""


_LIMITED = """
import importlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3:]))
"""


def good_file(
    images: int = 3, *, seed: int = 0, size: tuple[int, int] = (8, 8), channels: int = 1, **options: Any
) -> bytes:
    """A small good file, stored as it is, to make a hostile one from; ``options`` are those of ``gsdata.to_bytes``."""
    codes = testing.make_codes(seed, [2] * images, channels=channels, size=size)
    return gsdata.to_bytes(codes, **{"level": 0, **options})


def report(failures: Iterable[str]) -> NoReturn:
    """End the script: with 0 if every attack failed, with 1 and what succeeded otherwise."""
    succeeded = list(failures)
    for line in succeeded:
        print(f"THE ATTACK SUCCEEDED: {line}")
    raise SystemExit(bool(succeeded))


def attack(refused: dict[str, bytes], harmless: dict[str, bytes] | None = None) -> NoReturn:
    """Let a victim open the files, say what happened to each, and end the script."""
    report([*open_all(refused, expect_error=True), *open_all(harmless or {}, expect_error=False)])


def open_all(files: dict[str, bytes], expect_error: bool) -> list[str]:
    """What succeeded of these attacks."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.gsd" for number in range(len(files))]
        for path, data in zip(paths, files.values(), strict=True):
            path.write_bytes(data)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("opens.py")), str(ADDRESS_SPACE), *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=600,
        )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    failures = []
    for (what, data), result in zip(files.items(), [*found, *[None] * len(files)], strict=False):
        if result is None:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            failures.append(f"{what}: the reader ended with {done.returncode}: {last[:200]}")
            break
        peak, said = result["peak"], result["said"]
        print(f"{what} ({len(data):,} bytes): {said[:160]} [{peak / MIB:.1f} MiB, {result['seconds']:.2f} s]")
        if result["error"] == expect_error and result["lines"] == 1:
            if peak > MEMORY + len(data):
                failures.append(f"{what}: {peak / MIB:.0f} MiB allocated")
            if result["seconds"] > SECONDS:
                failures.append(f"{what}: {result['seconds']:.0f} s")
        else:
            failures.append(f"{what}: {'refused' if result['error'] else 'read without an error'}")
    return failures


def command(name: str, *words: object, space: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``gsd-NAME``, at most 2 minutes; ``space`` limits the memory that it may map."""
    module = {"inspect": "inspecting"}.get(name, name)
    command = ["-m", f"gsdata_tools.{module}", *words]
    if space is not None:
        command = ["-c", _LIMITED, space, f"gsdata_tools.{module}", *words]
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120)


def said_badly(what: str, done: subprocess.CompletedProcess[str], codes: Sequence[int]) -> list[str]:
    """What is wrong with how a command ended: another exit code, or more than one line about it."""
    lines = done.stderr.strip().splitlines()
    print(f"{what}: exit {done.returncode}{': ' if lines else ''}{lines[-1][:160] if lines else ''}")
    if done.returncode not in codes:
        return [f"{what}: exit code {done.returncode}"]
    return [f"{what}: {len(lines)} lines"] if done.returncode and len(lines) != 1 else []
