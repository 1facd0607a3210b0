"""The trainable set: Gaussians as parameters, seen through the quantisers that will store them.

A distillation loop takes the parameters of a few images (``leaves``), renders what the closed file would render
(``stored``), and gives the gradients back to ``RowAdam``, which moves those rows alone. How many Gaussians an image has
may change between steps: ``prune`` and ``split`` keep the coded size inside the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.gaussians import Antialias, Gaussians, ragged_rows
from gsdata.quantize import Codes, Quantizer, QuantizerSet, quantize

Leaves: TypeAlias = dict[str, torch.Tensor]

LEARNING_RATES = {"means": 0.004, "log_scales": 0.02, "shear": 0.04, "colors": 0.008, "opacities": 0.008}
"""Adam's step size for each attribute, in its own unit ([-1, 1], octaves, pixels, value); ``--lr`` multiplies them."""

EDGE = 0.999
"""Positions are clamped to [-EDGE, EDGE], inside the pole of the log barrier at the image's edge."""


@dataclass
class LearnableSet:
    """B images as trainable parameters, float32 tensors on one device without autograd history.

    Attributes:
        means: (G, 2) in [-1, 1].
        log_scales: (G, 2), log2 of l11 and l22 in pixels: positive scales for every parameter value.
        shear: (G, 1), l21 in pixels.
        colors: (G, C); opacities: (G, 1). Only their product is stored; two factors train a little faster than one.
        counts: (B,) int64.
        quantizers: what the file will store with; fixed for the whole run.
    """

    means: torch.Tensor
    log_scales: torch.Tensor
    shear: torch.Tensor
    colors: torch.Tensor
    opacities: torch.Tensor
    counts: NDArray[np.int64]
    size: tuple[int, int]
    quantizers: QuantizerSet
    antialias: Antialias
    background: tuple[float, ...]

    ATTRIBUTES = ("means", "log_scales", "shear", "colors", "opacities")

    @classmethod
    def from_codes(cls, codes: Codes, device: torch.device) -> LearnableSet:
        """Start from stored values; rendering it before any step gives the same pictures.

        Raises:
            ValueError: the images use several quantiser sets.
        """
        if len(codes.quantizers) != 1:
            raise ValueError(f"a trainable set needs one quantiser set, found {len(codes.quantizers)}")
        return cls.from_gaussians(codes.dequantize(), codes.quantizers[0], device)

    @classmethod
    def from_gaussians(cls, gaussians: Gaussians, quantizers: QuantizerSet, device: torch.device) -> LearnableSet:
        """Start from floating-point values (NumPy)."""
        values = gaussians.fold()

        def tensor(x: NDArray[np.float32]) -> torch.Tensor:
            return torch.tensor(np.ascontiguousarray(x, dtype=np.float32), device=device)

        return cls(
            means=tensor(values.means),
            log_scales=tensor(np.log2(values.cholesky[:, 0::2])),
            shear=tensor(values.cholesky[:, 1:2]),
            colors=tensor(values.colors),
            opacities=torch.ones(values.num_gaussians, 1, device=device),
            counts=values.counts.copy(),
            size=values.size,
            quantizers=quantizers,
            antialias=values.antialias,
            background=values.background,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.means.device

    @property
    def num_gaussians(self) -> int:
        """G, the number of Gaussians of all images together."""
        return int(self.means.shape[0])

    def rows(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Row numbers (int64, on the device) of the Gaussians of the images at ``indices``."""
        return torch.from_numpy(ragged_rows(self.counts, indices)).to(self.device)

    def leaves(self, rows: torch.Tensor) -> Leaves:
        """Copies of the parameters at ``rows`` that collect gradients."""
        return {name: getattr(self, name)[rows].requires_grad_() for name in self.ATTRIBUTES}

    def assemble(self, leaves: Mapping[str, torch.Tensor], counts: NDArray[np.int64]) -> Gaussians:
        """``Gaussians`` (opacities apart) made of parameter tensors; differentiable."""
        scales = torch.exp2(leaves["log_scales"])
        cholesky = torch.cat([scales[:, :1], leaves["shear"], scales[:, 1:]], dim=1)
        return Gaussians(
            leaves["means"],
            cholesky,
            leaves["colors"],
            counts,
            self.size,
            leaves["opacities"],
            self.antialias,
            self.background,
        )

    def stored(self, leaves: Mapping[str, torch.Tensor], counts: NDArray[np.int64]) -> Gaussians:
        """What the closed file will hold for these parameters, with straight-through gradients."""
        return self.quantizers.fake_quantize(self.assemble(leaves, counts))

    def codes(self) -> Codes:
        """The set as the file will store it."""
        everything = {name: getattr(self, name) for name in self.ATTRIBUTES}
        return quantize(self.assemble(everything, self.counts).numpy(), self.quantizers)

    def clamp(self, rows: torch.Tensor | slice = slice(None)) -> None:
        """Pull positions back to [-EDGE, EDGE]."""
        self.means[rows] = self.means[rows].clamp(-EDGE, EDGE)

    def importance(self) -> NDArray[np.float64]:
        """(G,) integral of each Gaussian's |colour| over the plane, in value times square pixels."""
        area = torch.exp2(self.log_scales.sum(dim=1).double())
        weight = (self.colors * self.opacities).double().abs().sum(dim=1) * area
        return weight.cpu().numpy()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that changes while training, for a checkpoint."""
        return {name: getattr(self, name) for name in self.ATTRIBUTES} | {"counts": torch.from_numpy(self.counts)}

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything, as arrays and JSON values, for another process."""
        arrays = {name: value.cpu().numpy() for name, value in self.state().items()}
        kept = {name: getattr(self, name) for name in ("size", "antialias", "background")}
        return arrays, kept | {"quantizers": asdict(self.quantizers)}

    @classmethod
    def unpack(cls, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], device: torch.device) -> LearnableSet:
        """What ``pack`` was called on."""
        tensors = {name: torch.tensor(arrays[name], device=device) for name in cls.ATTRIBUTES}
        quantizers = QuantizerSet(**{name: Quantizer(**values) for name, values in meta["quantizers"].items()})
        height, width = meta["size"]
        return cls(
            **tensors,
            counts=np.array(arrays["counts"]),
            size=(height, width),
            quantizers=quantizers,
            antialias=meta["antialias"],
            background=tuple(meta["background"]),
        )

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from what ``state`` returned."""
        for name in self.ATTRIBUTES:
            setattr(self, name, state[name].to(self.device).clone())
        self.counts = state["counts"].cpu().numpy().astype(np.int64)


@dataclass
class RowAdam:
    """Adam (Kingma and Ba 2015) whose moments and step counts belong to rows.

    A step moves the rows it is given and no others: images that were not rendered keep still, instead of coasting on
    momentum, and a row's bias correction counts its own steps. A row's rate falls as 1 / sqrt(1 + t / settle) with its own
    steps t: a schedule that need not know how many will follow.
    """

    rates: Mapping[str, float]
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-10
    settle: float = math.inf
    first: dict[str, torch.Tensor] = field(default_factory=dict)
    second: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: torch.Tensor | None = None

    def attach(self, parameters: LearnableSet) -> None:
        """Allocate zero moments for a set."""
        for name in parameters.ATTRIBUTES:
            self.first[name] = torch.zeros_like(getattr(parameters, name))
            self.second[name] = torch.zeros_like(getattr(parameters, name))
        self.steps = torch.zeros(parameters.num_gaussians, 1, device=parameters.device)

    @torch.no_grad()
    def step(self, parameters: LearnableSet, rows: torch.Tensor, leaves: Leaves) -> None:
        """Move ``rows`` (no repeats) down the gradients that ``leaves`` collected."""
        assert self.steps is not None
        count = self.steps[rows] + 1.0
        self.steps[rows] = count
        one, two = self.betas
        slower = (1.0 + (count - 1.0) / self.settle).rsqrt()
        for name, rate in self.rates.items():
            gradient = leaves[name].grad
            if gradient is None or rate == 0.0:
                continue
            first = self.first[name][rows].lerp(gradient, 1.0 - one)
            second = self.second[name][rows].lerp(gradient.square(), 1.0 - two)
            self.first[name][rows], self.second[name][rows] = first, second
            unbiased = (second / (1.0 - two**count)).sqrt_().add_(self.epsilon)
            getattr(parameters, name)[rows] -= rate * slower * (first / (1.0 - one**count)) / unbiased

    def take(self, rows: torch.Tensor, fresh: torch.Tensor) -> None:
        """Follow a change of rows: row k is the former row ``rows[k]``; where ``fresh`` is set it starts from zero."""
        assert self.steps is not None
        for moments in (self.first, self.second):
            for name, values in moments.items():
                moments[name] = values[rows].masked_fill(fresh[:, None], 0.0)
        self.steps = self.steps[rows].masked_fill(fresh[:, None], 0.0)

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts, for a checkpoint."""
        assert self.steps is not None
        named = {f"first.{k}": v for k, v in self.first.items()} | {f"second.{k}": v for k, v in self.second.items()}
        return named | {"steps": self.steps}

    def load_state(self, state: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """Continue from what ``state`` returned."""
        self.first = {
            k.removeprefix("first."): v.to(device).clone() for k, v in state.items() if k.startswith("first.")
        }
        self.second = {
            k.removeprefix("second."): v.to(device).clone() for k, v in state.items() if k.startswith("second.")
        }
        self.steps = state["steps"].to(device).clone()


def boundary_loss(means: torch.Tensor, form: str = "log") -> torch.Tensor:
    """What keeps Gaussians inside the image: zero at its centre, steep at its edge; outside, where no pixel may pull, it pulls back.

    Args:
        means: (G, 2) positions.
        form: ``log``: the barrier -E[log(1 - x^2) + log(1 - y^2)] of GSDD (arXiv:2509.26219), from ``EDGE`` on continued by its
            tangent. ``power``: E[x^8 + y^8], which leaves alone what is not near the edge.
    """
    if form == "power":
        return means.pow(8).sum(dim=1).mean()
    inside = means.clamp(-EDGE, EDGE)
    slope = 2 * EDGE / (1 - EDGE**2)
    return (slope * (means - inside).abs() - (1.0 - inside.square()).log()).sum(dim=1).mean()


def prune(parameters: LearnableSet, adam: RowAdam, number: int, least: int = 1) -> int:
    """Drop the ``number`` least important Gaussians of the set, leaving every image at least ``least``.

    Returns:
        How many were dropped (fewer than asked where images are down to ``least``).
    """
    importance = parameters.importance()
    candidates = np.flatnonzero(ranks(parameters) >= least)
    dropped = candidates[np.argsort(importance[candidates], kind="stable")[:number]]
    drop(parameters, adam, dropped)
    return len(dropped)


def ranks(parameters: LearnableSet) -> NDArray[np.int64]:
    """(G,) place of each Gaussian in its own image, 0 for the most important one."""
    image = np.repeat(np.arange(len(parameters.counts)), parameters.counts)
    within = np.lexsort((-parameters.importance(), image))
    starts = np.cumsum(parameters.counts) - parameters.counts
    rank = np.empty(len(image), np.int64)
    rank[within] = np.arange(len(image)) - np.repeat(starts, parameters.counts)
    return rank


def drop(parameters: LearnableSet, adam: RowAdam, dropped: NDArray[np.int64]) -> None:
    """Take Gaussians out of the set, by their row numbers; the optimiser follows."""
    image = np.repeat(np.arange(len(parameters.counts)), parameters.counts)
    keep = np.setdiff1d(np.arange(len(image)), dropped)
    rows = torch.from_numpy(keep).to(parameters.device)
    for name in parameters.ATTRIBUTES:
        setattr(parameters, name, getattr(parameters, name)[rows])
    parameters.counts = parameters.counts - np.bincount(image[dropped], minlength=len(parameters.counts))
    adam.take(rows, torch.zeros(len(keep), dtype=torch.bool, device=parameters.device))


def split(parameters: LearnableSet, adam: RowAdam, number: int) -> int:
    """Halve the ``number`` most important Gaussians: two copies of half the colour, a little apart along the first axis.

    The picture stays nearly the same; the two halves are free to part. Returns how many were split.
    """
    order = np.argsort(-parameters.importance(), kind="stable")[:number]
    image = np.repeat(np.arange(len(parameters.counts)), parameters.counts)
    repeats = np.ones(len(image), np.int64)
    repeats[order] = 2
    source = np.repeat(np.arange(len(image)), repeats)
    second = np.concatenate([[False], source[1:] == source[:-1]])
    halved = repeats[source] == 2
    rows = torch.from_numpy(source).to(parameters.device)
    mask = torch.from_numpy(halved).to(parameters.device)
    for name in parameters.ATTRIBUTES:
        setattr(parameters, name, getattr(parameters, name)[rows])
    parameters.colors[mask] *= 0.5
    # A quarter of a standard deviation each way, along (l11, l21), in the unit of the means.
    axis = torch.cat([torch.exp2(parameters.log_scales[:, :1]), parameters.shear], dim=1)
    unit = torch.tensor([2.0 / parameters.size[1], 2.0 / parameters.size[0]], device=parameters.device)
    sign = torch.from_numpy(np.where(second, 0.25, -0.25) * halved).to(parameters.device, torch.float32)
    parameters.means += sign[:, None] * axis * unit
    parameters.clamp(mask)
    parameters.counts = parameters.counts + np.bincount(image[order], minlength=len(parameters.counts))
    adam.take(rows, mask)
    return len(order)


def fill_budget(
    parameters: LearnableSet,
    adam: RowAdam,
    measure: Callable[[], int],
    low: int,
    high: int,
) -> int:
    """Prune or split until ``low`` <= measure() <= ``high``; coded size is known only after coding.

    Args:
        parameters: the set, changed in place.
        adam: its optimiser, which follows.
        measure: bytes of the file that the set would make now.
        low: least bytes wanted; a best effort (an image set may have nothing left to split).
        high: most bytes allowed; met, or nothing is left to prune.

    Returns:
        The last measured size in bytes.
    """
    size = measure()
    for _ in range(24):
        per_gaussian = max(size / max(parameters.num_gaussians, 1), 1e-3)
        if size > high:
            # A little more than the estimate: what is dropped is cheaper than the average.
            if prune(parameters, adam, int(np.ceil((size - high) / per_gaussian * 1.05)) + 1) == 0:
                return size
        elif size < low:
            wanted = int(((low + high) / 2 - size) / per_gaussian)
            if split(parameters, adam, max(wanted, 1)) == 0:
                return size
        else:
            return size
        size = measure()
    while size > high and prune(parameters, adam, max(1, parameters.num_gaussians // 500)):
        size = measure()
    return size
