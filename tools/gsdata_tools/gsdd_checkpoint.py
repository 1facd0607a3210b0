"""Checkpoints of the reference method's code (GSDD, arXiv 2509.26219): a state dict in, arrays out, and no code is run.

The code keeps all images of a set in one module of equal numbers of Gaussians and saves its state dict after the first fit
(``model_final.pth``), and the module itself, pickled, beside the learned rate after distilling (``{"model": ..., "syn_lr": ...}``). Only tensors
are read here, so of the latter the module must be a state dict too: ``CONVERT`` does that where the code is.
"""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.errors import GsdError

CONVERT = "torch.save({'model': c['model'].state_dict(), 'syn_lr': c['syn_lr']}, 'state.pt')"
_SHAPES = {"params.xy": 2, "params.cholesky": 3, "params.features": 3}
_COUNTS = "num_points_per_image"
_MOST = 1e5
_BOUND = (0.5, 0.0, 0.5)  # what the code adds to the stored Cholesky factors, where a checkpoint does not say


@dataclass(frozen=True, eq=False)
class Splats:
    """What a checkpoint holds: B images, G Gaussians in all, image after image; float64 and finite.

    Attributes:
        means: (G, 2), x and y in [-1, 1], image edges; y points down.
        cholesky: (G, 3), l11, l21, l22 in pixels of the size that it was trained at, as its renderer sees them: of any sign.
        colors: (G, 3), any numbers; 0 is black and 1 white.
        opacities: (G,), any numbers; below 1/255 nothing is drawn.
        counts: (B,) int64.
        lr: learned learning rate, or None.
    """

    means: NDArray[np.float64]
    cholesky: NDArray[np.float64]
    colors: NDArray[np.float64]
    opacities: NDArray[np.float64]
    counts: NDArray[np.int64]
    lr: float | None


def read(path: Path, precision: str = "bf16") -> Splats:
    """Read a checkpoint with ``torch.load(..., weights_only=True)``.

    Args:
        path: of the file.
        precision: ``bf16`` rounds what was trained as the code's renderer does with its setting of that name; ``fp32`` does not.

    Raises:
        GsdError: it holds anything but tensors, or not those that the code saves.
        OSError: it cannot be read.
    """
    state, lr = _parts(load(path), path)
    tensors = {name: _matrix(state, name, width, path) for name, width in _SHAPES.items()}
    opacity = "params.opacity" if "params.opacity" in state else "_opacity"
    rows = len(tensors["params.xy"])
    tensors["opacity"] = _matrix(state, opacity, 1, path) if opacity in state else torch.ones(rows, 1)
    for name, tensor in tensors.items():
        if len(tensor) != rows:
            raise GsdError(f"{path}: {name} has {len(tensor):,} rows, params.xy has {rows:,}; expected as many")
    bound = _matrix(state, "cholesky_bound", 3, path) if "cholesky_bound" in state else torch.tensor([_BOUND])
    if len(bound) != 1:
        raise GsdError(f"{path}: cholesky_bound has {len(bound)} rows; expected 1")
    values = {
        name: (tensor.to(torch.bfloat16) if precision == "bf16" else tensor).double().numpy()
        for name, tensor in tensors.items()
    }
    return Splats(
        means=values["params.xy"],
        cholesky=values["params.cholesky"] + bound.double().numpy(),
        colors=values["params.features"],
        opacities=values["opacity"][:, 0],
        counts=_counts(state, rows, path),
        lr=lr,
    )


def load(path: Path) -> Any:
    """What ``torch.load(..., weights_only=True)`` gives.

    Raises:
        GsdError: the file holds anything but tensors and plain values, or cannot be read as such.
        OSError: it cannot be read at all.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise GsdError(
                f"{path}: it holds Python objects, which could run code, and is not loaded; only tensors are. Where you trust the file and "
                f"have the code that wrote it: c = torch.load(FILE, weights_only=False); {CONVERT}"
            ) from None
        raise _unreadable(path, error) from None
    except MemoryError:
        raise
    except Exception as error:  # of damaged files nearly every kind
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> GsdError:
    said = f"{type(error).__name__}: {error}".partition("\n")[0].partition(". ")[0]
    return GsdError(f"{path}: not a checkpoint that torch.load(weights_only=True) reads ({said:.200})")


def _parts(loaded: Any, path: Path) -> tuple[dict[str, Any], float | None]:
    """The state dict, and the learned rate if there is one."""
    state, lr = loaded, None
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        state = loaded["model"]
        rate = loaded.get("syn_lr")
        if rate is not None:
            lr = float(rate) if isinstance(rate, (float, torch.Tensor)) and torch.as_tensor(rate).numel() == 1 else 0.0
            if not 0 < lr < float("inf"):
                raise GsdError(f"{path}: syn_lr is {rate!r:.80}; expected one positive number")
    if not isinstance(state, dict):
        raise GsdError(f"{path}: holds {type(loaded).__name__}; expected the state dict of GSDD's batch of images")
    missing = next((name for name in (*_SHAPES, _COUNTS) if name not in state), None)
    if missing is not None:
        found = ", ".join(map(str, list(state)[:6])) or "nothing"
        raise GsdError(
            f"{path}: has no {missing} (found: {found:.200}); expected the state dict of GSDD's batch of images"
        )
    return state, lr


def _matrix(state: dict[str, Any], name: str, width: int, path: Path) -> torch.Tensor:
    value = state[name]
    good = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() == 2
    if not good or value.shape[1] != width or value.layout != torch.strided:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise GsdError(f"{path}: {name} is {found}; expected floats of shape (N, {width})")
    if not torch.isfinite(value.float()).all():
        raise GsdError(f"{path}: {name} holds values that are not finite; the training has failed")
    if value.numel() and float(value.abs().max()) > _MOST:
        raise GsdError(
            f"{path}: {name} holds values up to {float(value.abs().max()):.3g}; beyond {_MOST:g} it is no image"
        )
    tensor: torch.Tensor = value.detach().float()
    return tensor


def _counts(state: dict[str, Any], rows: int, path: Path) -> NDArray[np.int64]:
    value = state[_COUNTS]
    integers = isinstance(value, torch.Tensor) and value.dim() == 1 and value.dtype in (torch.int64, torch.int32)
    if not integers or (value < 0).any() or int(value.sum()) != rows or len(value) == 0:
        raise GsdError(f"{path}: {_COUNTS} is {value!r:.80}; expected numbers that add up to {rows:,}")
    counts: NDArray[np.int64] = value.numpy().astype(np.int64)
    return counts
