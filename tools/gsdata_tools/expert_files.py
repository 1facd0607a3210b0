"""Experts on disk: the weights of a network after each epoch of a training, one safetensors file for each training.

A file holds one matrix ``trajectory`` (E + 1, P), float32 or float16: row e is all weights in the order of
``named_parameters`` after e epochs. Its metadata has one entry, the recipe as JSON, with a CRC-32 of each row, because
safetensors has none. A row is read alone, so that a matching step reads two of them and never a whole file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.atomic import write_atomically
from gsdata.errors import GsdError
from gsdata_tools.usage import UsageError

SCHEMA = "gsd-expert/1"
_NAME = re.compile(r"expert-(\d{3,})\.safetensors", re.ASCII)


@dataclass(frozen=True)
class ExpertRecipe:
    """What an expert was trained on, and how; all experts of a folder have the same.

    Attributes:
        data: digest of the real images, as ``sources.load`` gives it.
        source: their name, for messages.
        model: name of the network.
        channels: of the images.
        classes: number of classes.
        size: (H, W) of the images.
        mean: per-channel mean in [0, 1] that images were normalised by.
        std: per-channel standard deviation.
        augment: as ``gsdata.augment`` names it; "none" for none.
        epochs: E.
        batch_size: images per step; an epoch is as many steps as it takes to see every image.
        lr: learning rate, constant.
        momentum: of SGD; 0 for none.
        weight_decay: of SGD.
        half: whether weights are stored as float16.
        seed: of every draw; expert k draws for (seed, k).
        zca: epsilon of a ZCA whitening instead of mean and std; None for none.
    """

    data: str
    source: str
    model: str
    channels: int
    classes: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    half: bool
    seed: int
    zca: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExpertRecipe:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        named = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        lists: dict[str, Any] = {name: tuple(value) for name, value in named.items() if isinstance(value, list)}
        return cls(**(named | lists))


@dataclass(frozen=True, eq=False)
class Expert:
    """One stored expert.

    Attributes:
        path: its file.
        recipe: how it was made.
        parameters: P, the number of weights.
        checks: CRC-32 of each row's stored bytes.
    """

    path: Path
    recipe: ExpertRecipe
    parameters: int
    checks: tuple[int, ...]

    def weights(self, epoch: int) -> NDArray[np.float32]:
        """(P,) weights after 0 <= epoch <= E epochs.

        Raises:
            GsdError: the row does not match its checksum.
        """
        with _opened(self.path) as file:
            row = np.ascontiguousarray(file.get_slice("trajectory")[epoch : epoch + 1][0])
        if zlib.crc32(row.tobytes()) != self.checks[epoch]:
            raise GsdError(f"{self.path}: the weights after epoch {epoch} do not match their checksum; train it again")
        return row.astype(np.float32)


def expert_path(folder: Path, number: int) -> Path:
    """Where expert ``number`` of a folder is."""
    return folder / f"expert-{number:03d}.safetensors"


def write_expert(path: Path, trajectory: NDArray[np.floating[Any]], recipe: ExpertRecipe) -> None:
    """Write an expert's (E + 1, P) weights at once or not at all; the same weights and recipe give the same bytes."""
    from safetensors.numpy import save

    rows = np.ascontiguousarray(trajectory, np.float16 if recipe.half else np.float32)
    described = {"schema": SCHEMA, **asdict(recipe), "crc32": [zlib.crc32(row.tobytes()) for row in rows]}
    write_atomically(path, save({"trajectory": rows}, {"gsdata": json.dumps(described, sort_keys=True)}))


def read_expert(path: Path) -> Expert:
    """Check a file's structure, and read what it says of itself; weights are read when they are asked for.

    Raises:
        GsdError: it is damaged, or no expert.
    """
    with _opened(path) as file:
        try:
            described = json.loads(file.metadata()["gsdata"])
            if described["schema"] != SCHEMA:
                raise ValueError(f"schema {described['schema']!r:.40}, expected {SCHEMA!r}")
            recipe = ExpertRecipe.from_json(described)
            checks = tuple(int(check) for check in described["crc32"])
            matrix = file.get_slice("trajectory")
            shape, kind = matrix.get_shape(), matrix.get_dtype()
        except (TypeError, KeyError, ValueError) as error:
            raise GsdError(f"{path}: not a file of gsd-experts ({error}); train the experts again") from error
    if len(shape) != 2 or shape[0] != len(checks) or len(checks) != recipe.epochs + 1 or kind not in ("F32", "F16"):
        raise GsdError(
            f"{path}: holds {kind} {shape}, expected {recipe.epochs + 1} rows of weights; train the experts again"
        )
    return Expert(path, recipe, int(shape[1]), checks)


def expert_files(folder: Path) -> list[Path]:
    """The experts' files of a folder, in order of their numbers; none where there is no folder."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def read_experts(folder: Path) -> list[Expert]:
    """All experts of a folder.

    Raises:
        UsageError: there are none, or they were not made by one recipe.
        GsdError: a file is damaged.
    """
    experts = [read_expert(path) for path in expert_files(folder)]
    if not experts:
        raise UsageError(
            f"{folder}: there are no experts (expert-000.safetensors); make some with gsd-experts -o {folder}"
        )
    for expert in experts[1:]:
        if (name := first_difference(experts[0].recipe, expert.recipe)) is not None:
            raise UsageError(
                f"{expert.path} differs from {experts[0].path} in {name}; a folder has experts of one recipe"
            )
    return experts


def first_difference(one: ExpertRecipe, other: ExpertRecipe) -> str | None:
    """The name of the first field in which two recipes differ."""
    return next((f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)), None)


def experts_digest(experts: list[Expert]) -> str:
    """SHA-256 (hex) over recipes and checksums of the weights; not over names of files."""
    total = hashlib.sha256()
    for expert in experts:
        total.update(json.dumps([asdict(expert.recipe), expert.checks], sort_keys=True).encode())
    return total.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise GsdError(f"{path}: damaged safetensors file ({error}); train the experts again") from error
