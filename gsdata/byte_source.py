"""Where the bytes of a container come from: memory, or a file that is read by position."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Source(Protocol):
    """Where bytes come from: ``size`` of all, and ``read`` of a range (short at the end, never blocking)."""

    size: int
    name: str

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""


class MemorySource:
    """Bytes in memory."""

    def __init__(self, data: bytes, name: str = "<bytes>") -> None:
        self.data, self.name, self.size = data, name, len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""
        return self.data[offset : offset + length]


class FileSource:
    """An open file, read by position: threads and forked workers share the descriptor without sharing an offset.

    A file that is replaced (not overwritten) stays readable as it was when it was opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        # Closing is optional: the descriptor goes with the object, without a warning.
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``.

        Raises:
            ValueError: the source was closed.
        """
        if not self._close.alive:
            raise ValueError(f"{self.name}: the file was closed; open it again")
        parts = []
        while length > 0:  # one call reads at most 2 GiB
            part = os.pread(self._descriptor, min(length, 1 << 30), offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the descriptor back."""
        self._close()
