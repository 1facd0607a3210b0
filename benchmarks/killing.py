"""Kill commands at any moment, and look at what is left: what ``kills.py`` and tests of faults share. Linux only.

No run starts a Python of its own: each is a fork of this process, which has imported everything and computed nothing, so that no library's
threads are forked. A run writes what it is doing into memory that it shares with this process, which so knows in which moment it was killed.

A run ends before its time in one of three ways: by a signal from here after some time; by SIGKILL that it sends itself just before
one of its *steps* (making, flushing, renaming or removing a file or folder); or by the system, in the middle of a write, when a
file grows beyond a limit.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsdata.errors import GsdError
from gsdata_tools.checkpoints import Checkpoint

Body = Callable[[list[str]], "int | None"]

KINDS = ("checkpoint", "output")
STATES = ("computing", "written, not flushed", "flushed, not renamed", "renamed, folder not flushed")
OPERATIONS = ("make", "flush", "rename", "flush the folder of", "remove")
_SHARED = struct.Struct("<IBBB")
_OPERATION_OF = {"os.mkdir": "make", "os.rename": "rename", "os.remove": "remove", "os.rmdir": "remove"}


class Watch:
    """Counts the steps of this process in one folder, tells them to the parent, and kills this process when it is told to."""

    def __init__(self, shared: mmap.mmap, folder: Path, last: int | None, saves: int | None) -> None:
        self.shared, self.folder, self.last, self.saves = shared, f"{folder.resolve()}/", last, saves
        self.steps, self.kind, self.state = 0, KINDS[0], STATES[0]
        flush = os.fsync

        def fsync(descriptor: int) -> None:
            renamed = self.state == STATES[3]
            self._step(OPERATIONS[3 if renamed else 1], self.state)
            flush(descriptor)
            if renamed or self.state == STATES[1]:
                self._tell(OPERATIONS[3 if renamed else 1], STATES[0 if renamed else 2])

        os.fsync = fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_CREAT:
            self._at(arguments[0], "make", STATES[1])
        elif event == "os.rename":
            self._at(os.fspath(arguments[1]), "rename", STATES[3])
        elif event in _OPERATION_OF:
            # shutil.rmtree names what is in a folder that it has opened.
            path = f"{self.folder}{arguments[0]}" if arguments[-1] != -1 else os.fspath(arguments[0])
            self._at(path, _OPERATION_OF[event], STATES[0] if self.state == STATES[3] else self.state)

    def _at(self, path: str, operation: str, state: str) -> None:
        if path.startswith(self.folder):
            self.kind = KINDS[".ckpt" not in path[len(self.folder) :]]
            self._step(operation, state)

    def _step(self, operation: str, state: str) -> None:
        self.steps += 1
        self._tell(operation, self.state)
        if self.saves is not None:
            self.saves -= operation == OPERATIONS[3] and self.kind == KINDS[0]
        if self.steps == self.last or self.saves == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._tell(operation, state)

    def _tell(self, operation: str, state: str) -> None:
        self.state = state
        _SHARED.pack_into(
            self.shared, 0, self.steps, KINDS.index(self.kind), STATES.index(state), OPERATIONS.index(operation)
        )


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: its exit code, or minus the number of the signal that killed it.
        seconds: that it lived.
        steps: that it made, the one that it was killed before included.
        moment: what it was doing at the end: a state, and of what kind of file.
        step: the last of its steps.
        said: what it printed.
    """

    code: int
    seconds: float
    steps: int
    moment: str
    step: str
    said: str


def run(
    body: Body,
    words: Sequence[str],
    folder: Path,
    *,
    after: float | None = None,
    by: int = signal.SIGKILL,
    step: int | None = None,
    size: int | None = None,
    saves: int | None = None,
) -> Ended:
    """Fork, have the child call ``body(words)``, and wait for its end.

    Args:
        body: of a command.
        words: its arguments.
        folder: whose files count.
        after: seconds until the signal ``by`` is sent.
        by: a signal.
        step: before which it kills itself, 1 being the first.
        size: bytes that a file may have; the system kills who writes more, in the middle of it.
        saves: it kills itself when it has saved so many states in checkpoints.
    """
    shared = mmap.mmap(-1, _SHARED.size)
    with tempfile.TemporaryFile() as log:
        begun = time.monotonic()
        child = os.fork()
        if not child:
            _be_the_child(body, list(words), log.fileno(), size, lambda: Watch(shared, folder, step, saves))
        handle = os.pidfd_open(child)
        try:
            if after is not None and not select.select([handle], [], [], after)[0]:
                os.kill(child, by)
        finally:
            os.close(handle)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - begun
        log.seek(0)
        said = log.read().decode(errors="replace")
    steps, kind, state, operation = _SHARED.unpack_from(shared)
    moment = STATES[state] if state == 0 else f"{KINDS[kind]} {STATES[state]}"
    return Ended(code, seconds, steps, moment, f"{OPERATIONS[operation]} {KINDS[kind]}", said)


def _be_the_child(body: Body, words: list[str], log: int, size: int | None, watch: Callable[[], Watch]) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        if size is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        watch()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = body(words) or 0
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def torn(ckpt: Path) -> list[str]:
    """What cannot be read in the folder of a checkpoint."""
    options = ckpt / "options.json"
    if not options.exists():
        states = [] if (ckpt / "ended.json").exists() else [*ckpt.glob("*.npz")]
        return [f"{path}: without options" for path in states]
    try:
        checkpoint = Checkpoint(ckpt, json.loads(options.read_bytes()), resume=True)
        for name in checkpoint.names():
            checkpoint.load(name)
    except (GsdError, ValueError) as error:
        return [str(error)]
    return []


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under a final name, by path; of reports what no clock decides."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and ".ckpt/" not in name and not _is_temporary(name):
            found[name] = _timeless(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()
    return found


def temporaries(folder: Path) -> list[str]:
    """Left-over temporaries, also those of checkpoints; what is in a folder of them counts with it."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob(".gsdata-*.tmp")]
    return [name for name in names if not _is_temporary(name.rpartition("/")[0])]


def _is_temporary(name: str) -> bool:
    return any(part.startswith(".gsdata-") and part.endswith(".tmp") for part in name.split("/"))


def _timeless(text: bytes) -> bytes:
    said = json.loads(text)
    if isinstance(said, dict):
        said = {key: value for key, value in said.items() if key not in ("seconds", "images_per_second")}
    return json.dumps(said, sort_keys=True).encode()
