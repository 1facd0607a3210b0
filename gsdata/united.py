"""``UnitedSet``: several opened files as one set of images, without copying what they store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gsdata.dataset import check_normalizable
from gsdata.file import GsdFile, unite_classes
from gsdata.kernels.arguments import Size, checked_indices, resolve_size
from gsdata.recipe import agreed


class UnitedSet:
    """Images numbered through all files, in the order of the files; classes united by name, as ``gsdata.merge`` does it.

    Attributes:
        files: the files, at least one.
        starts: (len(files) + 1,) int64, number of the first image of each, and of all images.
        classes: K class names; "0", "1", ... where classes have no names; [] without labels.
        recipe: the recipe of all files; of files that disagree, one that says at most whether all are clamped.
        hard: int64 class of each image; the largest weight's of a soft label, -1 without labels.

    Raises:
        ValueError: no files, or files with different channels, kinds of labels, or only some with class names.
    """

    def __init__(self, files: Sequence[GsdFile]) -> None:
        if not files:
            raise ValueError("at least one file is needed, found an empty list")
        self.files, first = list(files), files[0]
        for file in files:
            if file.channels != first.channels:
                raise ValueError(f"{file.path} has {file.channels} channels, {first.path} has {first.channels}")
        self.starts: NDArray[np.int64] = np.cumsum([0, *(file.images for file in files)], dtype=np.int64)
        names, count, self._columns = unite_classes(files)
        self.classes = list(names) or [str(k) for k in range(count)]
        self.recipe = agreed([file.recipe for file in files])
        labelled = first.label_kind != "none"
        parts = [column[file.labels] if labelled else file.labels for file, column in self._with_columns()]
        self.hard: NDArray[np.int64] = np.concatenate(parts)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def size(self, size: Size) -> tuple[int, int]:
        """The output size (H, W) that ``size`` asks for.

        Raises:
            TypeError, ValueError: a bad size, or none where the files have several.
        """
        first = self.files[0]
        for file in self.files:
            if size is None and file.size != first.size:
                raise ValueError(f"{file.path} is {file.size}, {first.path} is {first.size}: say which with size=")
        return resolve_size(first.gaussians([]), size)

    def normalization(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and std of all recipes.

        Raises:
            ValueError: a file has none, or wants ZCA, or they differ.
        """
        first = self.files[0]
        for file in self.files:
            check_normalizable(file)
            if (file.recipe.mean, file.recipe.std) != (first.recipe.mean, first.recipe.std):
                raise ValueError(f"normalize=True: {file.path} has another mean and std than {first.path}")
        return first.recipe.mean, first.recipe.std

    def augmentation(self) -> str:
        """The augmentation that all recipes name.

        Raises:
            ValueError: a recipe names none, or another one.
        """
        first = self.files[0]
        for file in self.files:
            if file.recipe.augment is None:
                raise ValueError(f"{file.path}: augment='recipe' needs a recipe that names one, and this one does not")
            if file.recipe.augment != first.recipe.augment:
                raise ValueError(f"augment='recipe': {file.path} names another augmentation than {first.path}")
        return first.recipe.augment or ""

    def choose(
        self, indices: Sequence[int] | NDArray[np.integer] | None = None, classes: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """The numbers at ``indices`` (None: all), in their order, of images of ``classes`` (None: all).

        Raises:
            TypeError, IndexError, ValueError: no integers; an index out of range; an unknown class.
        """
        chosen = checked_indices(len(self), indices)
        if classes is None:
            return chosen
        if isinstance(classes, str):
            raise TypeError(f"classes must be a list of names, found the text {classes!r}")
        for name in classes:
            if name not in self.classes:
                known = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
                raise ValueError(f"there is no class {name!r}; the set has {known or 'none'}")
        return chosen[np.isin(self.hard[chosen], [self.classes.index(name) for name in classes])]

    def soft(self) -> NDArray[np.float32]:
        """(len(self), K): distributions; one-hot where a file holds hard labels.

        Raises:
            ValueError: the files have no labels.
        """
        if self.files[0].label_kind == "none":
            raise ValueError(f"{self.files[0].path}: labels='soft' needs labels, and this file has none")
        weights = np.zeros((len(self), len(self.classes)), np.float32)
        for first, (file, column) in zip(self.starts, self._with_columns(), strict=False):
            rows = np.arange(first, first + file.images)
            if file.soft_labels is None:
                weights[rows, column[file.labels]] = 1.0
            else:
                weights[rows[:, None], column] = file.soft_labels
        return weights

    def _with_columns(self) -> zip[tuple[GsdFile, NDArray[np.int64]]]:
        return zip(self.files, self._columns, strict=True)
