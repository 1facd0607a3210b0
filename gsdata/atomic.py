"""Files and folders that are under their names in full or not at all, also when who writes them is killed.

Content goes to a temporary in the same folder, ``.gsdata-*.tmp``, then to disk, then to its name by a rename. Who is killed before that
leaves the temporary behind. Its writer holds a lock on it, which ends with the process, so what is left over can be told from
what is being written: the first time that a process writes into a folder, it removes there what no one holds. Where there are no locks
(some network file systems, Windows) it stays.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_swept: set[tuple[int, Path]] = set()


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` under ``path`` so that at no time anything but the old or the new file is there.

    A symbolic link stays one: the file that it points to is replaced.
    """
    with written_atomically(path) as file:
        file.write(data)


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """``write_atomically`` for content that is written part by part: it is under ``path`` when the block ends without an error."""
    path = Path(path).resolve()
    _sweep(path.parent)
    temporary = _temporary_name(path.parent)
    try:
        # Not tempfile: its files are private, this one gets the permissions that any new file gets.
        while (descriptor := _locked(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), temporary)) < 0:
            temporary = _temporary_name(path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            temporary.replace(path)  # while the lock is held
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every system flushes folders; the rename is atomic all the same
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, to be renamed when it is complete; at the end what is there under its first name is removed."""
    _sweep(parent)
    path, descriptor = _temporary_name(parent), -1
    try:
        path.mkdir()
        while fcntl:
            with contextlib.suppress(FileNotFoundError):
                descriptor = _locked(os.open(path, os.O_RDONLY), path)
            if descriptor >= 0:
                break
            path = _temporary_name(parent)
            path.mkdir()
        yield path
    finally:
        try:
            shutil.rmtree(path, ignore_errors=True)
        except BaseException:  # Ctrl-C in the middle of it
            shutil.rmtree(path, ignore_errors=True)
            raise
        if descriptor >= 0:
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, when this process is there for the first time."""
    if (key := (os.getpid(), folder)) in _swept:
        return
    _swept.add(key)
    for path in folder.glob(".gsdata-*.tmp") if fcntl else ():
        with contextlib.suppress(OSError):
            descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def _temporary_name(folder: Path) -> Path:
    return folder / f".gsdata-{secrets.token_hex(8)}.tmp"


def _locked(descriptor: int, path: Path) -> int:
    """The descriptor of a new temporary, locked; -1 and closed if another process took it for left over in the moment before."""
    if fcntl is None:
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # no locks here: no one can take it for left over
        return descriptor
    os.close(descriptor)
    return -1
