"""What killed writers leave is removed, and what living ones write is not."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gsdata import atomic
from gsdata.atomic import temporary_folder, write_atomically, written_atomically

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and locks of POSIX")


@pytest.fixture(autouse=True)
def _first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that was nowhere yet."""
    monkeypatch.setattr(atomic, "_swept", set())


def in_another_process(work: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def left_over(path: Path) -> Path:
    """The temporary of a process that was killed while it wrote ``path``."""

    def half() -> None:
        with written_atomically(path) as file:
            file.write(b"half")
            file.flush()
            killed()

    assert in_another_process(half) == -signal.SIGKILL
    (temporary,) = path.parent.glob(".gsdata-*.tmp")
    assert temporary.read_bytes() == b"half"
    return temporary


def test_what_a_killed_process_left_goes_with_the_first_write(tmp_path: Path) -> None:
    temporary = left_over(tmp_path / "x")
    write_atomically(tmp_path / "y", b"new")  # another name in that folder
    assert [path.name for path in tmp_path.iterdir()] == ["y"]
    temporary.write_bytes(b"")  # afterwards this process looks no more
    write_atomically(tmp_path / "y", b"newer")
    assert temporary.exists()
    assert in_another_process(lambda: write_atomically(tmp_path / "y", b"newest")) == 0  # but another one does
    assert [path.name for path in tmp_path.iterdir()] == ["y"]
    assert (tmp_path / "y").read_bytes() == b"newest"


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with written_atomically(path) as file, temporary_folder(tmp_path) as folder:
        file.write(b"mine")
        (folder / "a").write_bytes(b"mine")
        assert in_another_process(lambda: write_atomically(path, b"other")) == 0
        assert path.read_bytes() == b"other"
        assert (folder / "a").read_bytes() == b"mine"
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_that_is_taken_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, taken = atomic._locked, []

    def late(descriptor: int, path: Path) -> int:
        if len(taken) < 3:
            taken.append(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return locked(descriptor, path)

    monkeypatch.setattr(atomic, "_locked", late)
    write_atomically(tmp_path / "x", b"whole")
    assert len(set(taken)) == 3
    taken.clear()
    with temporary_folder(tmp_path) as folder:
        (folder / "a").write_bytes(b"whole")
        folder.rename(tmp_path / "y")
    assert len(set(taken)) == 3
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y" / "a").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def test_a_temporary_that_another_process_is_just_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flock, refusals = fcntl.flock, iter([BlockingIOError(errno.EWOULDBLOCK, "held")])

    def refuse(descriptor: int, operation: int) -> None:
        for error in refusals:
            raise error
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_atomically(tmp_path / "x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"


@pytest.mark.parametrize("locks", ["refused", "missing"])
def test_without_locks_everything_works_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    import fcntl

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    temporary = left_over(tmp_path / "x")
    if locks == "missing":
        monkeypatch.setattr(atomic, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)
    write_atomically(tmp_path / "x", b"whole")
    with temporary_folder(tmp_path) as folder:
        folder.rename(tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == sorted([temporary, tmp_path / "x", tmp_path / "y"])


def test_what_only_looks_like_a_temporary_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_bytes(b"precious")
    (tmp_path / ".gsdata-0.tmp").symlink_to(tmp_path / "other")
    (tmp_path / ".gsdata-1.tmp").symlink_to(tmp_path / "other" / "precious")
    os.mkfifo(tmp_path / ".gsdata-2.tmp")
    write_atomically(tmp_path / "x", b"whole")
    assert (tmp_path / "other" / "precious").read_bytes() == b"precious"


def test_an_interrupt_leaves_nothing_wherever_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once before each operation of the system, once after it, as signals come."""
    path = tmp_path / "x"

    def write() -> None:
        write_atomically(path, b"new")

    def make() -> None:
        with temporary_folder(tmp_path):
            pass

    for work, names in ((write, ("open", "fsync", "replace")), (make, ("mkdir", "open", "rmdir"))):
        for name in names:
            for before in (True, False):
                path.write_bytes(b"old")
                with monkeypatch.context() as patch:
                    patch.setattr(os, name, once_interrupted(getattr(os, name), before))
                    with contextlib.suppress(KeyboardInterrupt):
                        work()
                assert list(tmp_path.iterdir()) == [path], (name, before)
                assert path.read_bytes() in (b"old", b"new")


def once_interrupted(real: Callable[..., object], before: bool) -> Callable[..., object]:
    signals = iter([KeyboardInterrupt])

    def interrupted(*arguments: object, **options: object) -> object:
        signal_now = next(signals, None)
        if signal_now and before:
            raise signal_now
        result = real(*arguments, **options)
        if signal_now:
            raise signal_now
        return result

    return interrupted
