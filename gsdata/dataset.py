"""``GaussianDataset``: a ``.gsd`` file as a map-style torch dataset of torchvision's shape."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gsdata import file as gsd_file
from gsdata.file import GsdFile
from gsdata.gaussians import Gaussians
from gsdata.kernels.arguments import Size, resolve_size
from gsdata.recipe import Recipe
from gsdata.rendering import render

try:
    import torch
    from torch.utils.data import Dataset
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("GaussianDataset needs PyTorch: pip install 'gsdata[torch]'", name="torch") from None

if TYPE_CHECKING:
    _Base = Dataset[tuple[Any, Any]]
else:
    _Base = Dataset

Output: TypeAlias = Literal["tensor", "uint8", "pil"]
LabelChoice: TypeAlias = Literal["hard", "soft"]
Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | GsdFile

RESIDENT_BYTES = 256 << 20
"""Up to this many bytes of float32 Gaussians are kept in memory; larger files are decoded anew for every request."""

_PIL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class GaussianDataset(_Base):
    """The images of a ``.gsd`` file, decoded on the CPU when they are asked for, at any size.

    ``ds[i]`` is ``(image, target)``. A ``DataLoader`` finds ``__getitems__`` and so decodes a batch in one call. Safe to
    pickle and to use in forked and spawned workers, also in a process forked after its parent has decoded images. What
    an index yields depends on neither batch size nor worker count, to the bit. Files of up to 256 MiB of float32
    Gaussians are decoded to Gaussians at once (forked workers share them); of larger ones each request decodes the
    chunks it needs.

    Args:
        source: path, bytes, binary file object, or an opened ``GsdFile``.
        size: output size in pixels: None is the file's reference size, S is (S, S), else (H, W).
        normalize: apply the recipe's per-channel (x - mean) / std; float output only.
        clamp: limit float output to [0, 1], before normalising; None is what the recipe says: encoded images are limited, distilled
            ones are not. uint8 and PIL output always are.
        output: ``tensor``: float32 (C, H, W), 0 black and 1 white. ``uint8``: uint8 tensor (C, H, W).
            ``pil``: ``PIL.Image`` of mode L, LA, RGB or RGBA for 1, 2, 3 or 4 channels.
        transform: called with each image; its result is yielded.
        target_transform: called with each target.
        labels: ``hard``: int; the class of the largest weight where the file holds soft labels, -1 where it holds none.
            ``soft``: float32 tensor (K,) that sums to 1; one-hot where the file holds hard labels.

    Attributes:
        file: the ``GsdFile``; closed again if the dataset opened it and keeps all of it in memory.
        size: output size (H, W).
        classes: K class names; "0", "1", ... where classes have no names; [] without labels.
        class_to_idx: index of each name.
        targets: hard label of each image, as a list of int.
        recipe: how to train on it.

    Raises:
        OSError: the path cannot be read.
        GsdError: the file is damaged, or is no ``.gsd`` file.
        ValueError: ``normalize`` on a file whose recipe has no mean and std, or wants ZCA; ``labels="soft"`` on a file
            without labels; an unknown ``output`` or ``labels``; a bad size.
    """

    def __init__(
        self,
        source: Source,
        *,
        size: Size = None,
        normalize: bool = False,
        clamp: bool | None = None,
        output: Output = "tensor",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        labels: LabelChoice = "hard",
    ) -> None:
        _one_of("output", output, get_args(Output))
        _one_of("labels", labels, get_args(LabelChoice))
        self.normalize, self.output = normalize, output
        self.transform, self.target_transform, self.label_choice = transform, target_transform, labels
        self._owns_file = not isinstance(source, GsdFile)
        self.file = source if isinstance(source, GsdFile) else gsd_file.open(source)
        self._resident: Gaussians | None = None
        try:
            self._read(size, clamp)
            self._load()
        except BaseException:
            if self._owns_file:
                self.file.close()
            raise

    def __len__(self) -> int:
        """Number of images."""
        return self.file.images

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """(image, target) of one image; negative indices count from the end.

        Raises:
            IndexError: outside [-len, len).
            TypeError: not an integer.
        """
        item: tuple[Any, Any] = self.__getitems__([index])[0]
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """(image, target) of each index, decoded in one call; what a ``DataLoader`` asks of a batch."""
        wanted = self._checked(indices)
        images, targets = self._rendered(wanted), self._targets_of(wanted)
        return [self._finish(image, target) for image, target in zip(images, targets, strict=True)]

    def images(self, indices: Sequence[int] | None = None, *, size: Size = None) -> torch.Tensor:
        """All images, or those at ``indices``, as one (n, C, H, W) tensor, without ``transform``.

        float32, clamped and normalised as the dataset is; uint8 where its output is ``uint8`` or ``pil``. ``size`` is that of
        this call; None is the dataset's.
        """
        wanted = self._checked(range(len(self)) if indices is None else indices)
        return (self if size is None else self.at_size(size))._rendered(wanted)

    def at_size(self, size: Size) -> Self:
        """The same dataset with another output size; it shares the file and what is kept in memory of it.

        Raises:
            TypeError, ValueError: a bad size.
        """
        new = copy.copy(self)
        new.size = resolve_size(self.file.gaussians([]), size)
        return new

    def extra_repr(self) -> str:
        """Further lines of ``repr``; for subclasses."""
        return ""

    def __repr__(self) -> str:
        file, (height, width) = self.file, self.size
        h0, w0 = file.size
        decoded = "" if (height, width) == (h0, w0) else f", decoded at {height}x{width}"
        mean = f", {file.gaussian_count / len(self):.1f} Gaussians each" if len(self) else ""
        shown = ", ".join(repr(name)[1:-1] for name in self.classes[:10])
        dots = ", ..." if len(self.classes) > 10 else ""
        kinds = {
            "none": "none (targets are -1)",
            "hard": "soft, stored hard" if self.label_choice == "soft" else "hard",
            "soft": f"{self.label_choice}, stored soft",
        }
        steps = [
            {"tensor": "float32 tensor", "uint8": "uint8 tensor", "pil": "PIL image"}[self.output],
            "clamped to [0, 1]" if self.clamp and self.output == "tensor" else "",
            f"normalized by mean {self.recipe.mean}, std {self.recipe.std}" if self.normalize else "",
        ]
        lines = [
            f"Number of datapoints: {len(self)}",
            f"File: {file.path}, {file.byte_table().total} bytes",
            f"Images: {file.channels} x {h0}x{w0}{mean}{decoded}",
            f"Labels: {kinds[file.label_kind]}" + (f"; {len(self.classes)} classes: {shown}{dots}" if shown else ""),
            f"Output: {', '.join(step for step in steps if step)}",
            *self.extra_repr().splitlines(),
            *(
                f"{title}: {value!r}"
                for title, value in (("Transform", self.transform), ("Target transform", self.target_transform))
                if value is not None
            ),
        ]
        return "\n    ".join([f"Dataset {type(self).__name__}", *lines])

    def __getstate__(self) -> dict[str, Any]:
        """Without the decoded Gaussians: another process decodes its own from the file, which pickles by its path."""
        return {**self.__dict__, "_resident": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def _read(self, size: Size, clamp: bool | None) -> None:
        file = self.file
        self.size = resolve_size(file.gaussians([]), size)
        if self.normalize:
            if self.output != "tensor":
                raise ValueError(
                    f"normalize=True needs output='tensor', found {self.output!r}, whose pixels are 0 to 255"
                )
            check_normalizable(file)
        if self.label_choice == "soft" and file.label_kind == "none":
            raise ValueError(f"{file.path}: labels='soft' needs labels, and this file has none")
        self.recipe: Recipe = file.recipe
        self.clamp = bool(self.recipe.clamp if clamp is None else clamp)
        self.classes: list[str] = list(file.classes) or [str(k) for k in range(file.class_count)]
        self.class_to_idx: dict[str, int] = {name: k for k, name in enumerate(self.classes)}
        self.targets: list[int] = file.labels.tolist()

    def _load(self) -> None:
        if self.label_choice == "soft":
            _ = self.file.soft_labels  # kept by the file from now on
        values = self.file.gaussian_count * (2 + 3 + self.file.channels)
        if values * 4 > RESIDENT_BYTES:
            return
        self._resident = self.file.gaussians()
        if self._owns_file:
            self.file.close()  # everything is in memory: no descriptor is held, nor inherited by workers

    def _checked(self, indices: Sequence[int]) -> NDArray[np.int64]:
        try:
            wanted = [operator.index(index) for index in indices]
        except TypeError:
            raise TypeError(f"an index must be an integer, found {indices!r}; images() takes many at once") from None
        for index in wanted:
            if not -len(self) <= index < len(self):
                raise IndexError(f"image index {index} is out of range for {len(self)} images")
        return np.array([index % len(self) for index in wanted], np.int64)

    def _rendered(self, indices: NDArray[np.int64]) -> torch.Tensor:
        if self._resident is not None:
            gaussians, chosen = self._resident, indices
        else:
            gaussians, chosen = self.file.gaussians(indices), np.arange(len(indices))
        if self.output != "tensor":
            return torch.from_numpy(render(gaussians, self.size, chosen, dtype=np.uint8))
        images = torch.from_numpy(render(gaussians, self.size, chosen))
        if self.clamp:
            images.clamp_(0, 1)
        if self.normalize:
            mean, std = (torch.tensor(values)[:, None, None] for values in (self.recipe.mean, self.recipe.std))
            images.sub_(mean).div_(std)
        return images

    def _targets_of(self, indices: NDArray[np.int64]) -> list[Any]:
        if self.label_choice == "hard":
            return [self.targets[index] for index in indices]
        stored = self.file.soft_labels
        if stored is not None:
            return list(torch.from_numpy(stored[indices]))
        hard = torch.tensor([self.targets[index] for index in indices], dtype=torch.int64)
        return list(torch.nn.functional.one_hot(hard, self.file.class_count).float())

    def _finish(self, image: torch.Tensor, target: Any) -> tuple[Any, Any]:
        value: Any = _to_pil(image) if self.output == "pil" else image
        if self.transform is not None:
            value = self.transform(value)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return value, target


def check_normalizable(file: GsdFile) -> None:
    """Check that the recipe's mean and std are all it takes to normalise.

    Raises:
        ValueError: there are none, or the recipe wants ZCA whitening; the line says which real data that needs.
    """
    recipe = file.recipe
    if recipe.zca is not None:
        told = ", ".join(f"{key} {value}" for key, value in recipe.zca.items()) or "data not named"
        raise ValueError(
            f"{file.path}: the recipe whitens by ZCA, whose matrix comes from real images ({told}) and is in no file: "
            "compute it from those and pass it as transform=, with normalize=False"
        )
    if recipe.mean is None or recipe.std is None:
        raise ValueError(f"{file.path}: normalize=True needs the recipe's mean and std, and this file has none")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, found {value!r}")


def _to_pil(image: torch.Tensor) -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError("output='pil' needs Pillow: pip install 'gsdata[tools]'", name="PIL") from None
    channels = image.shape[0]
    pixels = image[0] if channels == 1 else image.permute(1, 2, 0).contiguous()
    return Image.frombytes(_PIL_MODES[channels], (image.shape[2], image.shape[1]), pixels.numpy().tobytes())
