"""A file that changes while it is read: what was checked at opening is not what is decoded later."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gsdata
from victim import good_file, report

GOOD, OTHER = good_file(400, chunk_images=8), good_file(400, seed=1, chunk_images=8)
assert len(GOOD) == len(OTHER)
WHOLE = {gsdata.open(data).content_id for data in (GOOD, OTHER)}


def overwritten(path: Path) -> None:
    """Other bytes in the same file."""
    with path.open("r+b") as file:
        file.seek(len(GOOD) // 2)
        file.write(bytes(len(GOOD) // 2))


def replaced_in_place(path: Path) -> None:
    """Another good file in the same one."""
    path.write_bytes(OTHER)


def renamed_over(path: Path) -> None:
    """Another good file under the same name: who has it open keeps the old one."""
    other = path.with_suffix(".new")
    other.write_bytes(OTHER)
    other.replace(path)


def verdict(read: Callable[[], str]) -> str:
    """``whole``, the name of the error, or what else happened."""
    try:
        return "whole" if read() in WHOLE else "PARTS OF BOTH"
    except gsdata.GsdError as error:
        return type(error).__name__ if len(str(error).splitlines()) == 1 else "more than one line"


def opened(path: Path) -> str:
    """The identity of a file that is opened and read at once."""
    with gsdata.open(path) as file:
        file.verify()
        return file.content_id


def after_opening(path: Path, change: Callable[[Path], object]) -> str:
    """What reading says if the file changes between opening and reading."""
    path.write_bytes(GOOD)
    with gsdata.open(path) as file:
        change(path)
        return verdict(lambda: (file.verify(), file.content_id)[1])


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Another process that writes one file and the other in turn, byte over byte, as a careless program does."""
    code = (
        "import sys, pathlib\nfiles = [pathlib.Path(p).read_bytes() for p in sys.argv[2:]]\n"
        "while True:\n  for data in files:\n    with open(sys.argv[1], 'r+b', 0) as file:\n      for i in range(0, len(data), 512): file.write(data[i : i + 512])"
    )
    sources = [path.with_suffix(f".{number}") for number in range(2)]
    for source, data in zip(sources, (GOOD, OTHER), strict=True):
        source.write_bytes(data)
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, [path, *sources])])
    try:
        yield
    finally:
        process.kill()
        process.wait()


failures, found = [], {}
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "x.gsd"
    changes: dict[str, tuple[Callable[[Path], object], set[str]]] = {
        "cut in half": (lambda path: os.truncate(path, len(GOOD) // 2), {"FormatError"}),
        "emptied": (lambda path: os.truncate(path, 0), {"FormatError"}),
        "overwritten in part": (overwritten, {"ChecksumError"}),
        "overwritten by another good one": (replaced_in_place, {"ChecksumError"}),
        "replaced by another good one": (renamed_over, {"whole"}),
        "deleted": (Path.unlink, {"whole"}),
    }
    for name, (change, expected) in changes.items():
        said = after_opening(path, change)
        print(f"a file that is {name} after it was opened: {said}")
        failures += [] if said in expected else [f"{name}: {said}"]
    path.write_bytes(GOOD)
    end = time.monotonic() + 1.5
    with writer(path):
        while time.monotonic() < end:
            said = verdict(lambda: opened(path))
            found[said] = found.get(said, 0) + 1
print(f"a file that another process writes all the time: {found}")
report([*failures, *(said for said in found if said not in {"whole", "FormatError", "ChecksumError"})])
