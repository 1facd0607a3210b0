"""``GaussianLoader``: whole batches from Gaussians that stay on the device, in an order that can be told and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("GaussianLoader needs PyTorch: pip install 'gsdata[torch]'", name="torch") from None

from gsdata import file as gsd_file
from gsdata.augment import augment as dsa
from gsdata.augment import operations
from gsdata.batch_format import BatchFormat
from gsdata.dataset import LabelChoice, Source
from gsdata.file import GsdFile
from gsdata.kernels.arguments import Size
from gsdata.order import Order, Uneven, draw, whole_number
from gsdata.prefetch import made
from gsdata.resident import ResidentImages
from gsdata.united import UnitedSet

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

RESIDENT_BYTES = 4 << 30
"""Most bytes of float32 Gaussians that a loader keeps unless it is told otherwise."""


class GaussianLoader:
    """Batches ``(images, targets)`` of one or several ``.gsd`` files, on the device where they are needed.

    The Gaussians stay on the device, and a batch is rendered at once into the wanted size, type and layout, while the step
    before it runs: on the CPU in threads, on a CUDA device in a stream of its own. There are no worker processes. On
    the CPU pixels have the same bits as those of ``GaussianDataset``.

    Every ``iter(loader)`` is the next epoch, from 0 on, or the one that ``set_epoch`` said. Its order is a function of seed,
    epoch and world size (``gsdata.order``): the same on every device, for every batch size, whatever is prefetched.

    Args:
        source: path, bytes, binary file object or opened ``GsdFile``, or a list of them, which are one set then: classes are
            united by name, sizes may differ if ``size`` is given, channels and kinds of labels may not.
        batch_size: images in a batch; the last one of an epoch may be smaller.
        device: where the Gaussians are kept and batches appear.
        size: output size in pixels: None is the reference size, S is (S, S), else (H, W).
        dtype: float32 (0 black, 1 white), float16, bfloat16, or uint8 (clamped, 0 to 255).
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``; the shape is (n, C, H, W) in both.
        normalize: apply the recipe's per-channel (x - mean) / std; float output only.
        clamp: limit float output to [0, 1], before normalising; None is what the recipe says, as for ``GaussianDataset``.
        labels: ``hard``: int64 (n,); the class of the largest weight where a file holds soft labels, -1 where it holds none.
            ``soft``: float32 (n, K), rows sum to 1; one-hot where a file holds hard labels.
        indices: which images make the set, numbered through all files; in this order, repeats allowed. None is all.
        classes: names of the classes (numbers as text where they have none) whose images make the set, of those that
            ``indices`` leaves. Labels keep their numbers.
        shuffle: another order in every epoch.
        seed: of the order and of ``augment="recipe"``, 0 to 2^64 - 1.
        drop_last: leave a smaller last batch out.
        rank: number of this process, from 0. Nothing is asked of ``torch.distributed``.
        world_size: how many processes share the set.
        uneven: what happens where ``world_size`` does not divide the images: ``pad``: some come twice, so that every process
            has as many, as with ``DistributedSampler``; ``drop``: some are left out; ``exact``: every image comes
            once, and lengths differ by at most one.
        augment: ``recipe``: the operations that the recipe names, keyed by seed, epoch and the batch's place in it, in float32
            before rounding to ``dtype``. Or a function of the batch of images, called when the batch is yielded.
        prefetch: batches made ahead; 0 makes each one when it is asked for.
        resident_bytes: refuse sets with more bytes of float32 Gaussians than this.

    Attributes:
        size: output size (H, W).
        classes: K class names; "0", "1", ... where classes have no names; [] without labels.
        class_to_idx: index of each name.
        targets: hard label of each image of the set, as a list of int.
        recipe: how to train on it; an empty one where several files disagree.
        epoch: the epoch of the running iteration, or of the next one where none runs.
        num_images: images in the set, those of all processes.

    Raises:
        OSError: a path cannot be read.
        GsdError: a file is damaged, or is no ``.gsd`` file.
        TypeError, ValueError, IndexError: an argument that cannot be met, in one line that says which and why.
    """

    def __init__(
        self,
        source: Source | list[Source] | tuple[Source, ...],
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        size: Size = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        normalize: bool = False,
        clamp: bool | None = None,
        labels: LabelChoice = "hard",
        indices: Sequence[int] | NDArray[np.integer] | None = None,
        classes: Sequence[str] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "pad",
        augment: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
        prefetch: int = 2,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self.batch_size = whole_number("batch_size", batch_size, 1, 2**31)
        self.prefetch = whole_number("prefetch", prefetch, 0, 2**16)
        self.drop_last, self.augment, self.device = drop_last, augment, _device(device)
        if labels not in get_args(LabelChoice):
            raise ValueError(f"labels must be one of {', '.join(get_args(LabelChoice))}, found {labels!r}")
        # Everything is in memory in the end: files of the caller's stay open, others do not.
        with ExitStack() as opened:
            sources = source if isinstance(source, (list, tuple)) else [source]
            united = UnitedSet(
                [s if isinstance(s, GsdFile) else opened.enter_context(gsd_file.open(s)) for s in sources]
            )
            self.size, self.classes, self.recipe = united.size(size), united.classes, united.recipe
            mean, std = united.normalization() if normalize else (None, None)
            limited = bool(self.recipe.clamp if clamp is None else clamp)
            self._format = BatchFormat(self.size, dtype, memory_format, mean, std, limited)
            self._strategy = _strategy(united, augment, dtype)
            chosen = united.choose(indices, classes)
            targets = united.hard if labels == "hard" else united.soft()
            # Augmentation by recipe works on float32, which is rounded after it.
            rendered = replace(self._format, dtype=torch.float32) if self._strategy else self._format
            self._images = ResidentImages(united, chosen, self.device, rendered, resident_bytes)
        self.class_to_idx: dict[str, int] = {name: k for k, name in enumerate(self.classes)}
        self.targets: list[int] = united.hard[chosen].tolist()
        self._targets = torch.from_numpy(targets[chosen]).to(self.device)
        self.num_images = len(chosen)
        self._order = Order(self.num_images, shuffle, seed, rank, world_size, uneven)
        self._at, self._continues, self._iteration = (0, 0), True, object()

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
        return len(self._starts(0))

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch, or what is left of one after ``load_state_dict``."""
        epoch, done = self._at if self._continues else (self._at[0] + 1, 0)
        self._at, self._continues, self._iteration = (epoch, done), False, object()
        return self._iterate(epoch, done, self._iteration)

    @property
    def epoch(self) -> int:
        """The epoch of the running iteration, or of the next one where none runs."""
        return self._at[0]

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch, from its start; or from where the state left it that was loaded before."""
        epoch = whole_number("epoch", epoch, 0, 2**64 - 1)
        if not (self._continues and epoch == self._at[0]):
            self._at = (epoch, 0)
        self._continues, self._iteration = True, object()

    def state_dict(self) -> dict[str, int | bool | str]:
        """Where the last iteration is, in plain values: what was yielded counts, not what was only prefetched.

        The same for all ranks that have taken as many batches. After the last batch it is the start of the next epoch.
        """
        epoch, done = self._at
        return {"epoch": epoch, "images_done": done, **self._order.identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on where ``state`` was taken; the batch size may be another.

        Raises:
            ValueError: it was taken with another set, seed, order or world size, so that there is no such place here.
        """
        here = self._order.identity()
        for name, value in here.items():
            if state.get(name) != value:
                raise ValueError(f"the state was taken with {name}={state.get(name)!r}, this loader has {value!r}")
        epoch = whole_number("epoch", state.get("epoch"), 0, 2**64 - 1)
        done = whole_number("images_done", state.get("images_done"), 0, len(self._order))
        self._at, self._continues, self._iteration = (epoch, done), True, object()

    def __repr__(self) -> str:
        (height, width), form = self.size, self._format
        return (
            f"GaussianLoader({len(self)} batches of {self.batch_size} x {self._images.channels} x {height} x {width}, "
            f"{form.dtype}, {self.device}; {self.num_images} images, {self._order!r})"
        )

    def _starts(self, done: int) -> range:
        """Where each batch begins in this process's part of an epoch."""
        return range(done, len(self._order) - (self.batch_size - 1 if self.drop_last else 0), self.batch_size)

    def _iterate(self, epoch: int, done: int, iteration: object) -> Iterator[Batch]:
        order, starts = self._order.epoch(epoch), self._starts(done)
        on_device = torch.from_numpy(order).to(self.device)
        make = partial(self._make, epoch, order, on_device)
        with closing(made(make, starts, self.prefetch, self.device)) as batches:
            for start, (images, targets) in zip(starts, batches, strict=True):
                if callable(self.augment):
                    images = self.augment(images)
                if self._iteration is iteration:
                    self._at = (epoch, start + self.batch_size)
                    if start == starts[-1]:
                        self._at, self._continues = (epoch + 1, 0), True
                yield images, targets
        if self._iteration is iteration and not starts:
            self._at, self._continues = (epoch + 1, 0), True

    def _make(self, epoch: int, order: NDArray[np.int64], on_device: torch.Tensor, start: int) -> Batch:
        batch = slice(start, start + self.batch_size)
        rows = on_device[batch]
        images = self._images.render(order[batch], rows)
        if self._strategy:
            # The place of the batch's first image among all processes: nobody else has it.
            place = start * self._order.world_size + self._order.rank
            seed = int(draw(1, self._order.seed, epoch, "augment", place)[0] >> np.uint64(1))
            images = dsa(images, self._strategy, seed=seed)
            images = images.to(dtype=self._format.dtype, memory_format=self._format.memory_format)
        return images, self._targets[rows]


def _device(device: str | torch.device) -> torch.device:
    found = torch.device(device)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def _strategy(united: UnitedSet, augment: object, dtype: torch.dtype) -> str:
    """The operations to apply; "" for none, or for a function of the caller's."""
    if augment is None or callable(augment):
        return ""
    if augment != "recipe":
        raise ValueError(f"augment must be None, 'recipe' or a function of the images, found {augment!r}")
    if dtype == torch.uint8:
        raise ValueError("augment='recipe' needs a floating-point dtype, found torch.uint8")
    strategy = united.augmentation()
    return strategy if operations(strategy) else ""
