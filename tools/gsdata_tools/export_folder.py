"""Outputs that are there in full or not at all: a folder or a file is made under a temporary name and then renamed."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsdata.atomic import temporary_folder, write_atomically
from gsdata_tools.usage import UsageError

INDEX = "export.json"
"""In every exported folder: what it is. ``--force`` replaces only folders that have one."""
_SCHEMAS = ("gsd-export/", "gsd-eval-export/")


def check_folder(folder: Path, force: bool, option: str = "-o") -> None:
    """Check before any work that a folder can be written.

    Raises:
        UsageError: its parent is missing, it is a file, or something is in it; with ``force``, something that is no export.
    """
    _check_parent(folder, option)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{option} {folder} is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise UsageError(f"{option} {folder} is not empty; --force replaces an earlier export")
    if not _is_export(folder):
        raise UsageError(f"{option} {folder} holds something else than an export: remove it yourself, or name another")


def check_file(file: Path, force: bool, suffix: str) -> None:
    """Check before any work that a file can be written.

    Raises:
        UsageError: its name ends in something else than ``suffix``, its folder is missing, or it exists and ``force`` is off.
    """
    if file.suffix != suffix:
        raise UsageError(f"-o {file}: the name must end in {suffix}")
    _check_parent(file, "-o")
    if file.is_dir():
        raise UsageError(f"-o {file} is a folder; name a file")
    if file.exists() and not force:
        raise UsageError(f"{file} exists already; --force overwrites it")


@contextmanager
def new_folder(folder: Path, force: bool = False) -> Iterator[Path]:
    """An empty folder to write to, which takes the place of ``folder`` at the end, or goes if anything was raised.

    Raises:
        UsageError: as ``check_folder``, of what is there at the end.
    """
    folder = folder.resolve()  # behind a link, the folder itself is replaced
    with temporary_folder(folder.parent) as temporary:
        yield temporary
        check_folder(folder, force)
        if not folder.exists() or not any(folder.iterdir()):
            temporary.rename(folder)
        elif not _exchange(temporary, folder):
            _replace(temporary, folder)


@contextmanager
def new_file(file: Path, force: bool = False) -> Iterator[Path]:
    """A path to write to, renamed to ``file`` at the end, or removed if anything was raised.

    Raises:
        UsageError: as ``check_file``, of what is there at the end.
    """
    file = file.resolve()
    with temporary_folder(file.parent) as folder:
        temporary = folder / file.name
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        check_file(file, force, file.suffix)
        temporary.replace(file)


def write_index(folder: Path, said: dict[str, Any]) -> None:
    """Write ``export.json``; JSON values only."""
    text = json.dumps(said, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / INDEX, text.encode(errors="backslashreplace"))


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return call is not None and call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _replace(new: Path, folder: Path) -> None:
    """The same in two steps, of which a kill between them leaves the old folder beside, as ``.NAME.PROCESS.old``."""
    old = folder.with_name(f".{folder.name[:100]}.{os.getpid()}.old")
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_parent(path: Path, option: str) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{option} {path}: the folder {path.parent} is not writable")


def _is_export(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((folder / INDEX).read_bytes())
        return isinstance(said, dict) and str(said.get("schema")).startswith(_SCHEMAS)
    return False
