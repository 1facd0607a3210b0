"""Tar archives read to their end: Python's reader takes a cut or damaged archive for a shorter one, this one does not."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from gsdata.errors import GsdError


def is_tar(name: str) -> bool:
    """Whether a file's name is that of a tar archive."""
    return name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"))


@contextmanager
def open_tar(path: Path, mode: Literal["r:*", "r|*"] = "r:*") -> Iterator[tarfile.TarFile]:
    """A tar archive, compressed or not; whatever is wrong with it is a ``GsdError``. ``r|*`` reads in one pass."""
    try:
        with tarfile.open(path, mode) as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise GsdError(f"{path}: not a readable tar archive ({error})") from error


def files(path: Path, mode: Literal["r:*", "r|*"] = "r:*") -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The archive and each plain file in it; links, devices and folders are passed over.

    Raises:
        GsdError: the archive is damaged or ends without the block of zeros that ends every archive.
    """
    ended = False

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            nonlocal ended
            ended = len(buf) == tarfile.BLOCKSIZE and not any(buf)
            return super().frombuf(buf, encoding, errors)

    with open_tar(path, mode) as archive:
        archive.tarinfo = Header
        # The first header was read on opening; an archive of nothing but its end is no archive worth reading.
        for member in archive:
            if member.isreg():
                yield archive, member
        if not ended:
            raise GsdError(f"{path}: the tar archive is cut off or damaged after {archive.offset:,} bytes")


def content(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int = -1) -> bytes:
    """The bytes of a plain file in an archive, or the first ``limit`` of them."""
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read(limit)
