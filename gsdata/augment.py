"""Differentiable Siamese Augmentation (DSA), the augmentation that dataset distillation trains and matches with.

Source: B. Zhao and H. Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021
(arXiv:2102.08259), and the parameter values of its published code, which the methods after it all kept. Every operation
is differentiable with respect to the images. "Siamese" means that real and synthetic images, in batches of different
sizes, meet the same operation with the same parameters, so that matching compares like with like.

Written in plain torch: kornia's operations differ from the published ones (its colour jitter multiplies where DSA adds,
its crops resize where DSA shifts, its erasing draws another shape), so they would change the protocol.

Nothing here touches torch's global random state: draws come from a seed or a generator that the caller passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

STRATEGY = "color_crop_cutout_flip_scale_rotate"
"""The published strategy: one of these six operations is drawn per call."""


@dataclass(frozen=True)
class DsaParameters:
    """The published strengths.

    Attributes:
        flip: probability of a horizontal mirror image.
        scale: zoom factors of both axes are uniform in [1 / scale, scale], independently.
        rotate: angles are uniform in [-rotate, rotate] degrees.
        crop: shifts are uniform whole pixels up to this part of the side; what comes in is zero.
        cutout: side of the zeroed rectangle as a part of the image's side; it may hang over the edge.
        brightness: added offset, uniform in [-brightness / 2, brightness / 2].
        saturation: factor on the distance from the pixel's channel mean, uniform in [0, saturation].
        contrast: factor on the distance from the image's mean, uniform in [contrast, 1 + contrast].
    """

    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0
    crop: float = 0.125
    cutout: float = 0.5
    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 0.5


PUBLISHED = DsaParameters()


@dataclass(frozen=True)
class _Draws:
    """Parameter draws for one call: ``count`` is 1 for a Siamese batch (broadcast), else the number of images."""

    count: int
    generator: torch.Generator

    def uniform(self, like: torch.Tensor) -> torch.Tensor:
        """(count, 1, 1, 1) in [0, 1), drawn in float32 on the generator's device whatever the images are."""
        values = torch.rand(self.count, generator=self.generator, device=self.generator.device)
        return values.to(device=like.device, dtype=like.dtype).view(-1, 1, 1, 1)

    def integers(self, low: int, high: int, device: torch.device) -> torch.Tensor:
        """(count,) int64 in [low, high)."""
        drawn = torch.randint(low, high, (self.count,), generator=self.generator, device=self.generator.device)
        return drawn.to(device)


def _color(x: torch.Tensor, draws: _Draws, p: DsaParameters) -> torch.Tensor:
    x = x + (draws.uniform(x) - 0.5) * p.brightness
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (draws.uniform(x) * p.saturation) + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (draws.uniform(x) + p.contrast) + mean


def _crop(x: torch.Tensor, draws: _Draws, p: DsaParameters) -> torch.Tensor:
    batch, _, height, width = x.shape
    pad_y, pad_x = int(height * p.crop + 0.5), int(width * p.crop + 0.5)
    shift_y = draws.integers(0, 2 * pad_y + 1, x.device)
    shift_x = draws.integers(0, 2 * pad_x + 1, x.device)
    padded = functional.pad(x, (pad_x, pad_x, pad_y, pad_y))
    if draws.count == 1:
        top, left = int(shift_y[0]), int(shift_x[0])
        return padded[:, :, top : top + height, left : left + width]
    image = torch.arange(batch, device=x.device)[:, None, None]
    rows = torch.arange(height, device=x.device)[None, :, None] + shift_y[:, None, None]
    columns = torch.arange(width, device=x.device)[None, None, :] + shift_x[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


def _cutout(x: torch.Tensor, draws: _Draws, p: DsaParameters) -> torch.Tensor:
    inside = []
    for side, shape in ((x.shape[2], (1, 1, -1, 1)), (x.shape[3], (1, 1, 1, -1))):
        length = int(side * p.cutout + 0.5)
        first = draws.integers(0, side + 1 - length % 2, x.device) - length // 2
        line = torch.arange(side, device=x.device).view(shape)
        start = first.view(-1, 1, 1, 1)
        inside.append((line >= start) & (line < start + length))
    return x.masked_fill(inside[0] & inside[1], 0.0)


def _flip(x: torch.Tensor, draws: _Draws, p: DsaParameters) -> torch.Tensor:
    return torch.where(draws.uniform(x) < p.flip, x.flip(3), x)


def _warp(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Sample ``x`` bilinearly at [[a, b], [c, d]] times the output position; zeros outside."""
    zero = torch.zeros_like(a)
    theta = torch.stack([a, b, zero, c, d, zero], dim=-1).view(-1, 2, 3).to(x.dtype)
    grid = functional.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _scale(x: torch.Tensor, draws: _Draws, p: DsaParameters) -> torch.Tensor:
    low, span = 1.0 / p.scale, p.scale - 1.0 / p.scale
    sx, sy = (draws.uniform(x).flatten() * span + low for _ in range(2))
    return _warp(x, sx, torch.zeros_like(sx), torch.zeros_like(sx), sy)


def _rotate(x: torch.Tensor, draws: _Draws, p: DsaParameters) -> torch.Tensor:
    angle = (draws.uniform(x).flatten() * 2.0 - 1.0) * math.radians(p.rotate)
    return _warp(x, angle.cos(), -angle.sin(), angle.sin(), angle.cos())


_OPERATIONS: dict[str, Callable[[torch.Tensor, _Draws, DsaParameters], torch.Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def operations(strategy: str) -> tuple[str, ...]:
    """Names of the operations that a strategy string lists, in its order; () for ``""`` and ``"none"``.

    Accepts the form that a file's recipe holds (``"dsa:"`` in front) and the British spelling of colour.

    Raises:
        ValueError: a name is unknown.
    """
    text = strategy.removeprefix("dsa:").lower()
    if text in ("", "none"):
        return ()
    names = tuple("color" if name == "colour" else name for name in text.split("_"))
    for name in names:
        if name not in _OPERATIONS:
            known = "_".join(_OPERATIONS)
            raise ValueError(f"augmentation {strategy!r}: unknown operation {name!r}; known: {known}")
    return names


def augment(
    images: torch.Tensor,
    strategy: str = STRATEGY,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    siamese: bool = False,
    mode: Literal["single", "multiple"] = "single",
    parameters: DsaParameters = PUBLISHED,
) -> torch.Tensor:
    """Augment a batch, differentiably with respect to the images.

    Args:
        images: (B, C, H, W) float tensor, any number of channels (the published use normalises them first, so that the
            zeros that crop, cutout, scale and rotate bring in are the mean colour).
        strategy: operation names joined by underscores, as in ``STRATEGY``; ``"dsa:"`` in front is allowed;
            ``""`` or ``"none"`` returns the images unchanged.
        seed: key of this call's draws, any integer that torch accepts; exactly one of ``seed`` and ``generator``.
        generator: source of this call's draws; its state advances.
        siamese: True draws one set of parameters for the whole batch, whatever its size: two calls with the same seed
            treat a real and a synthetic batch alike. False draws parameters for each image.
        mode: ``"single"`` (published) draws one operation per call for the whole batch; ``"multiple"`` applies all
            of them in the order of the strategy.
        parameters: strengths; the published ones by default.

    Returns:
        (B, C, H, W) of the same dtype and device.

    Raises:
        ValueError: an unknown operation, not a 4-dimensional floating-point batch, or not exactly one source of draws.
    """
    if images.ndim != 4 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be a (B, C, H, W) floating-point tensor, found {found}")
    if (seed is None) == (generator is None):
        raise ValueError("pass exactly one of seed and generator")
    names = operations(strategy)
    if generator is None:
        assert seed is not None
        generator = torch.Generator().manual_seed(seed)
    if not names or images.shape[0] == 0:
        return images
    if mode == "single":
        drawn = torch.randint(len(names), (1,), generator=generator, device=generator.device)
        names = (names[int(drawn)],)
    draws = _Draws(1 if siamese else int(images.shape[0]), generator)
    for name in names:
        images = _OPERATIONS[name](images, draws, parameters)
    return images
