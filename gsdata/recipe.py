"""``Recipe``: what a file says about how to train on it. Never baked into pixels; applied by who reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How to train on a data set; None means that the file does not say.

    Attributes:
        value_space: what decoded pixel values are; ``srgb-unit``: sRGB (or gray) with black 0 and white 1.
        mean: per-channel mean in that space; with ``std``: networks were trained on (x - mean) / std.
        std: per-channel standard deviation, positive.
        clamp: True: networks are trained on values limited to [0, 1], before mean and std. Encoded images are made so; networks see a
            distilled image as the sum that it is.
        zca: recipe of a ZCA whitening (a mapping such as ``{"epsilon": 0.1, "data": "cifar10", "split": "train"}``);
            the matrix itself is never stored.
        lr: learning rate of the network, learned or chosen.
        momentum: of SGD.
        weight_decay: of SGD.
        augment: augmentation strategy as ``gsdata.augment`` names it, such as ``dsa:color_crop_cutout_flip_scale_rotate``.
        model: network the set was made with, such as ``ConvNet-D3``.
        epochs: passes over the set.
        steps: optimiser steps, where epochs are not the natural unit.
        batch_size: images per optimiser step.

    Raises:
        ValueError: a value has the wrong type, is not finite, or mean and std differ in length.
    """

    value_space: str = "srgb-unit"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    clamp: bool | None = None
    zca: Mapping[str, Any] | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    augment: str | None = None
    model: str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                numbers = tuple(_number(name, v) for v in _sequence(name, value))
                object.__setattr__(self, name, numbers)
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError(
                f"recipe mean and std must be given together, one per channel: {self.mean!r:.80}, {self.std!r:.80}"
            )
        if self.std is not None and min(self.std, default=1.0) <= 0:
            raise ValueError(f"recipe std must be positive, found {self.std!r:.80}")
        if self.clamp is not None and self.clamp is not True:
            raise ValueError(f"recipe clamp must be true or left out, found {self.clamp!r:.80}")
        for name in ("lr", "momentum", "weight_decay"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"recipe {name} must be a positive integer, found {value!r:.80}")
        for name in ("value_space", "augment", "model"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "value_space"):
                raise ValueError(f"recipe {name} must be text, found {value!r:.80}")
        if self.value_space != "srgb-unit":
            raise ValueError(f"recipe value_space must be 'srgb-unit', found {self.value_space!r:.80}")
        if self.zca is not None and not isinstance(self.zca, Mapping):
            raise ValueError(f"recipe zca must be a mapping, found {self.zca!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something, as plain values for the header."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return {
            k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe in a header.

        Raises:
            ValueError: an unknown field or a bad value.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown recipe field {unknown[0]!r:.80}")
        return cls(**values)


def agreed(recipes: Sequence[Recipe]) -> Recipe:
    """What one set of several files says: their recipe if it is the same, else only whether all are clamped."""
    first = recipes[0]
    if all(recipe == first for recipe in recipes):
        return first
    return Recipe(clamp=True if all(recipe.clamp for recipe in recipes) else None)


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"recipe {name} must be a list of numbers, found {value!r:.80}")
    return tuple(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"recipe {name} must be a finite number, found {value!r:.80}")
    return float(value)
