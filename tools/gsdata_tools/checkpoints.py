"""Checkpoints of a run that is not done yet: a folder ``X.ckpt`` beside the output, written so that a kill loses no saved state.

Each file is a zip of ``.npy`` arrays and one JSON text (so ``numpy.load`` reads it too), written under a temporary name and then
renamed; the zip's CRC32s are checked before anything is read from it. No pickle, in either direction. A state says which options and which
name it belongs to: one from another run is never loaded, however it got there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gsdata.atomic import write_atomically
from gsdata.errors import GsdError
from gsdata_tools.usage import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}", re.ASCII)
_OPTIONS = "options.json"
_ENDED = "ended.json"
"""What the options are renamed to before states are removed: what is left after that is of no use."""
_META = "meta.json"


def pack(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a zip that holds arrays (of anything but objects) and JSON values."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_META, _json({"arrays": sorted(arrays), "meta": meta or {}}))
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            archive.writestr(f"{key}.npy", member.getbuffer())
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What ``pack`` was given.

    Raises:
        BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError: these are not such bytes.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        arrays = {
            member.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
            for member in archive.namelist()
            if member != _META
        }
        contents = json.loads(archive.read(_META))
    if contents["arrays"] != sorted(arrays):
        raise ValueError("its list of arrays is not what it holds")
    return arrays, contents["meta"]


class Checkpoint:
    """The folder ``X.ckpt``: named states of arrays and JSON, and the options that they were made with.

    Args:
        path: the folder, made at the first ``save``.
        options: the resolved options that decide the content (JSON values by option name, without dashes). A resumed run must
            give the same ones.
        resume: continue from what the folder holds; otherwise whatever it holds is removed.

    Raises:
        UsageError: the folder was made with other options; the message names the first that differs.
        GsdError: the folder's options file is damaged, or gone.
    """

    def __init__(
        self, path: str | os.PathLike[str], options: Mapping[str, Any] | None = None, *, resume: bool = False
    ) -> None:
        self.path = Path(path)
        self.options: dict[str, Any] = json.loads(_json(options or {}))
        if not resume or (self.path / _ENDED).exists():
            self.delete()
        elif self.path.exists():
            self._compare_options()

    @property
    def resuming(self) -> bool:
        """Whether there is any saved state."""
        return bool(self.names())

    def save(self, name: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> None:
        """Save a state under a name, replacing an older one of that name.

        Args:
            name: letters, digits, ``_``, ``.`` and ``-``.
            arrays: any NumPy arrays except of objects, by name.
            meta: JSON values.
        """
        data = pack(arrays, {"meta": meta or {}, "belongs": self._belongs(name)})
        target = self._file(name)
        self.path.mkdir(exist_ok=True)
        if not (self.path / _OPTIONS).exists():
            write_atomically(self.path / _OPTIONS, _json(self.options).encode())
        write_atomically(target, data)

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the meta of a saved state.

        Raises:
            KeyError: no such state was saved.
            GsdError: the file is damaged, or belongs to another run or name.
        """
        target = self._file(name)
        if not target.exists():
            raise KeyError(name)
        try:
            arrays, contents = unpack(target.read_bytes())
            meta, belongs = contents["meta"], contents["belongs"]
        except (
            zipfile.BadZipFile,
            zlib.error,
            ValueError,
            KeyError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise self._damaged(target, error) from error
        if belongs != self._belongs(name):
            raise self._damaged(target, ValueError("it is another run's, or was renamed"))
        return arrays, meta

    def names(self) -> list[str]:
        """The names of all saved states, sorted."""
        return sorted(file.stem for file in self.path.glob("*.npz")) if self.path.is_dir() else []

    def remove(self, name: str) -> None:
        """Remove one saved state, if it is there."""
        self._file(name).unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the folder: the run is done, or starts again. Files that no checkpoint writes are left, and the folder then too."""
        if not self.path.is_dir():
            return
        if (self.path / _OPTIONS).exists():
            (self.path / _OPTIONS).replace(self.path / _ENDED)
        for file in [*self.path.glob("*.npz"), *self.path.glob(".gsdata-*.tmp"), self.path / _ENDED]:
            file.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            shutil.rmtree(self.path)

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name for a checkpoint")
        return self.path / f"{name}.npz"

    def _belongs(self, name: str) -> str:
        return hashlib.sha256(f"{name} {_json(self.options)}".encode()).hexdigest()

    def _damaged(self, file: Path, error: Exception) -> GsdError:
        return GsdError(f"{file}: damaged checkpoint file ({error}); --force without --resume starts again")

    def _compare_options(self) -> None:
        file = self.path / _OPTIONS
        if not file.exists():
            if self.names():
                raise self._damaged(file, ValueError("it is missing"))
            return
        try:
            saved = json.loads(file.read_bytes())
        except ValueError as error:
            raise self._damaged(file, error) from error
        if not isinstance(saved, dict):
            raise self._damaged(file, ValueError("no object"))
        for name in [*saved, *(key for key in self.options if key not in saved)]:
            old, new = saved.get(name), self.options.get(name)
            if old != new:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{self.path} was made with {option} {_show(old)}, this command has {_show(new)}: "
                    "repeat the first command with --resume, or start again with --force and without --resume"
                )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _show(value: object) -> str:
    text = "(not given)" if value is None else value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, list | tuple):
        text = "/".join(map(str, value))
    return text if len(text) <= 60 else text[:57] + "..."
