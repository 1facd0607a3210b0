"""The disk fills up, rights go, processes die or share a file, memory runs out: nothing is lost, nothing is half written."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import gsdata
import killing
from gsdata.testing import make_codes
from gsdata_tools import cli, export

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, limits and signals of POSIX")

KILLING = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")

SMALL, LARGE = make_codes(0, [5, 6]), make_codes(1, [400] * 200)
OLD, NEW = gsdata.to_bytes(SMALL, labels=[0, 1], level=1), gsdata.to_bytes(LARGE, level=1)
IDENTITIES = {gsdata.open(data).content_id for data in (OLD, NEW)}


def in_a_child(work: Callable[[], object]) -> int:
    """Fork; the child does the work and ends. Returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def ended_with(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def full_disk() -> Iterator[Path]:
    """A folder on a disk of 128 KiB, where that can be made; else files that may not grow beyond 64 KiB."""
    folder = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    try:
        if not mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


@contextmanager
def rights_lost(folder: Path) -> Iterator[None]:
    """Nothing may be written into the folder; root becomes nobody, who obeys that."""
    root = os.geteuid() == 0
    folder.chmod(0o555)
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def one_line(capsys: pytest.CaptureFixture[str], words: str) -> None:
    said = capsys.readouterr().err.strip()
    assert words in said
    assert len(said.splitlines()) == 1, said


def test_a_full_disk(tmp_path, capsys):
    source = tmp_path / "source.gsd"
    source.write_bytes(OLD)
    assert export.main([str(source), "--to", "npz", "--quiet", "-o", str(tmp_path / "a.npz")]) == 0
    with full_disk() as folder:
        path = folder / "x.gsd"
        path.write_bytes(OLD)
        with pytest.raises(OSError, match=r"No space left|File too large"):
            gsdata.save(path, LARGE, level=0)
        with pytest.raises(OSError, match=r"No space left|File too large"):
            gsdata.open(NEW).save(path)
        capsys.readouterr()
        large = ["--to", "npz", "--size", "300", "--quiet", "-o", str(folder / "x.npz")]
        assert export.main([str(source), *large]) == 1
        one_line(capsys, "No space left" if list(folder.iterdir()) == [path] and os.path.ismount(folder) else "")
        assert path.read_bytes() == OLD
        assert list(folder.iterdir()) == [path]
        gsdata.save(path, make_codes(2, [7]))
        assert gsdata.open(path).gaussian_count == 7


def test_rights_that_are_lost(capsys):
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "x.gsd"
        path.write_bytes(OLD)
        assert export.main([str(path), "--to", "npz", "--quiet", "-o", str(folder / "a.npz")]) == 0
        (folder / "a.npz").unlink()
        with rights_lost(folder):
            with pytest.raises(PermissionError):
                gsdata.save(path, LARGE)
            assert export.main([str(path), "--to", "npz", "--quiet", "-o", str(folder / "a.npz")]) == 2
            one_line(capsys, "")
        assert path.read_bytes() == OLD
        assert list(folder.iterdir()) == [path]
    finally:
        shutil.rmtree(folder)


def save_new(words: list[str]) -> None:
    gsdata.open(NEW).save(words[0])


@KILLING
def test_killed_before_each_step_of_saving(tmp_path):
    """The file under the final name is the old or the new one, and the next process that writes removes what is left over."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "x.gsd"
    seen = []
    for step in range(1, 5):
        path.write_bytes(OLD)
        ended = killing.run(save_new, [str(path)], folder, step=step)
        assert ended.code == -signal.SIGKILL
        seen.append((ended.step, path.read_bytes() == NEW, len(list(folder.iterdir())) - 1))
        assert path.read_bytes() in (OLD, NEW)
        again = killing.run(save_new, [str(path)], folder)
        assert (again.code, again.steps - seen[-1][2], path.read_bytes() == NEW) == (0, 4, True)
        assert list(folder.iterdir()) == [path]
    assert seen == [
        ("make output", False, 0),
        ("flush output", False, 1),
        ("rename output", False, 1),
        ("flush the folder of output", True, 0),
    ]


@KILLING
@pytest.mark.parametrize("size", [0, 1, 100, 70_000, len(NEW) - 1])
def test_killed_in_the_middle_of_a_write(tmp_path, size):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "x.gsd"
    path.write_bytes(OLD)
    assert killing.run(save_new, [str(path)], folder, size=size).code == -signal.SIGXFSZ
    assert path.read_bytes() == OLD
    (left,) = set(folder.iterdir()) - {path}
    assert left.read_bytes() == NEW[:size]
    assert killing.run(save_new, [str(path)], folder).code == 0
    assert list(folder.iterdir()) == [path]


@KILLING
@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path, kills):
    """At a moment that nobody chose."""
    folder, draws = tmp_path / "folder", random.Random(kills)
    folder.mkdir()
    path = folder / "x.gsd"
    path.write_bytes(OLD)

    def save_for_ever(words: list[str]) -> None:
        while True:
            for data in (NEW, OLD):
                gsdata.open(data).save(path)

    killed, moments, seen = 0, set(), set()
    for _ in range(kills):
        ended = killing.run(save_for_ever, [], folder, after=draws.uniform(0.001, 0.03))
        killed += ended.code == -signal.SIGKILL
        moments.add(ended.moment)
        seen.add(path.read_bytes())
        assert len(list(folder.iterdir())) <= 2  # each run removes what the last one left
    assert killed == kills
    if kills >= 200:  # of few, all may fall into the same moment
        assert {"output written, not flushed", "output renamed, folder not flushed"} <= moments
    assert seen <= {OLD, NEW}
    assert killing.run(save_new, [str(path)], folder).code == 0
    assert list(folder.iterdir()) == [path]
    assert path.read_bytes() == NEW


def test_a_reader_while_a_writer_replaces_the_file(tmp_path):
    path = tmp_path / "x.gsd"
    path.write_bytes(OLD)

    def replace() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for data in (NEW, OLD):
                gsdata.open(data).save(path)

    child, seen = in_a_child(replace), []
    try:
        end = time.monotonic() + 15
        while len(seen) < 150 and (len(set(seen)) < 2 or len(seen) < 60) and time.monotonic() < end:
            with gsdata.open(path) as file:
                time.sleep(0.001)
                file.verify()
                seen.append(file.content_id)
    finally:
        os.kill(child, signal.SIGKILL)
        ended_with(child)
    assert set(seen) == IDENTITIES


def test_eight_processes_read_one_file(tmp_path):
    """Opened before the fork: they share the descriptor, and no offset in it."""
    path = tmp_path / "x.gsd"
    gsdata.save(path, LARGE, level=1, chunk_images=10)
    with gsdata.open(path) as file:
        expected = gsdata.open(NEW).codes()

        def read(seed: int) -> None:
            for index in np.random.default_rng(seed).permutation(200)[:60]:
                np.testing.assert_array_equal(file.codes([index]).means, expected.select(np.array([index])).means)
            file.verify()

        children = [in_a_child(lambda seed=seed: read(seed)) for seed in range(8)]
        assert [ended_with(child) for child in children] == [0] * 8
        file.verify()


def test_memory_that_runs_out(tmp_path):
    path = tmp_path / "x.gsd"
    path.write_bytes(OLD)
    code = (
        "import resource, sys, gsdata\nfrom gsdata.testing import make_codes\n"
        "gsdata.save(sys.argv[2], make_codes(0, [1]), level=1)\n"
        "codes = make_codes(1, [65535] * 30)\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + (32 << 20),) * 2)\n"
        "try: gsdata.save(sys.argv[1], codes, level=0)\nexcept MemoryError: print('refused')"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("/proc: not there")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "y.gsd")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr) == ("refused\n", "")
    assert path.read_bytes() == OLD
    assert sorted(left.name for left in tmp_path.iterdir()) == ["x.gsd", "y.gsd"]


@pytest.mark.parametrize("error", [MemoryError("8 GiB"), None])
def test_a_command_that_lacks_memory_says_so(error, capsys):
    """PyTorch has errors of its own for it."""

    def body(words: list[str]) -> None:
        if error is not None:
            raise error
        torch = pytest.importorskip("torch")
        torch.empty(1 << 50)

    assert cli.run(body, []) == 1
    one_line(capsys, "out of memory (")


def test_other_errors_of_pytorch_stay_what_they_are():
    def body(words: list[str]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        cli.run(body, [])
