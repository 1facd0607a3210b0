"""``render``: Gaussians to images, on whatever backend fits, differentiable in torch.

Backends (FORMAT.md, "Rendering", is normative; ``kernels/reference.py`` is its text as code):

* ``cpu``: NumPy arrays or torch tensors on the CPU; Numba kernels with a hand-written adjoint; the default there.
* ``cuda``: torch tensors on an NVIDIA GPU; CUDA kernels with a hand-written adjoint; the default there, needs CuPy.
* ``dense``: NumPy arrays or torch tensors on any device; plain torch and autograd; the default on other devices.
* ``reference``: NumPy arrays or torch tensors on the CPU; float64 NumPy; slow, exact.

A new backend is added here, in ``_choose`` and ``render`` or ``_render_float``, and nowhere else.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gsdata.gaussians import Array, Gaussians
from gsdata.kernels.arguments import Indices, Size, resolve_indices, resolve_size

Backend: TypeAlias = Literal["auto", "reference", "dense", "cpu", "cuda"]

DTYPES = ("float32", "float16", "bfloat16", "uint8", "float64")

_log = logging.getLogger("gsdata")


def render(
    gaussians: Gaussians,
    size: Size = None,
    indices: Indices = None,
    *,
    dtype: Any = None,
    backend: Backend = "auto",
) -> Array:
    """Render images: pixel = background + sum of weight * color, at any size.

    Args:
        gaussians: a batch of B images; NumPy arrays or torch tensors on one device.
        size: output size in pixels: None is the reference size, S is (S, S), else (H, W). Another size is another
            render of the same Gaussians, not a resized image.
        indices: images to render, in any order, with repeats; negative ones count from the end; None is all.
        dtype: of the result, as a name, a NumPy or a torch dtype. None is float32, not clamped. ``uint8`` is clamped
            to [0, 1], times 255, rounded half to even. ``float16`` and ``bfloat16`` (torch only) are float32 rounded
            once. ``float64`` needs the ``reference`` or ``dense`` backend.
        backend: ``auto`` takes the fastest one installed for the device.

    Returns:
        (len(indices) or B, C, H, W), NumPy for NumPy input, else torch on the same device. Torch results are
        differentiable with respect to means, cholesky, colors and opacities (``dense`` any number of times, the
        others once; uint8 not at all). On a GPU, layouts, normalisation and indices there: ``kernels.cuda.render``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a bad size, dtype or backend, or tensors on several devices.
        IndexError: an index is outside [-B, B).
    """
    height_width = resolve_size(gaussians, size)
    chosen = resolve_indices(gaussians, indices)
    name = _dtype_name(dtype, isinstance(gaussians.means, np.ndarray))
    backend = _choose(backend, gaussians, name)
    if backend == "cuda":
        import torch

        from gsdata.kernels import cuda

        wanted = None if indices is None else chosen  # all of them need no upload
        return cuda.render(gaussians, height_width, wanted, cuda.Output(dtype=getattr(torch, name)))
    return _convert(_render_float(gaussians, height_width, chosen, backend, name), name)


def _dtype_name(dtype: Any, is_numpy: bool) -> str:
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, found {name}")
    if name == "bfloat16" and is_numpy:
        raise ValueError("dtype bfloat16 needs torch tensors, NumPy has no such type: use gaussians.torch()")
    return name


def _choose(backend: str, gaussians: Gaussians, dtype: str) -> Backend:
    """The backend to use, after checks that give one clear line each."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, found {backend!r}")
    values = [v for v in (gaussians.means, gaussians.cholesky, gaussians.colors, gaussians.opacities) if v is not None]
    kinds = {isinstance(value, np.ndarray) for value in values}
    if len(kinds) > 1:
        raise TypeError("means, cholesky, colors and opacities must be all NumPy arrays or all torch tensors")
    is_numpy = kinds == {True}
    if not is_numpy and len({value.device for value in values}) > 1:
        raise ValueError("means, cholesky, colors and opacities must lie on one device")
    device = "cpu" if is_numpy else str(values[0].device.type)
    if backend in ("cpu", "reference") and device != "cpu":
        raise ValueError(f"backend {backend!r} needs tensors on the CPU, found {device}: use 'auto' or 'dense'")
    if backend == "cuda" and device != "cuda":
        raise ValueError(
            f"backend 'cuda' needs tensors on a CUDA device, found {'NumPy arrays' if is_numpy else device}"
        )
    if backend in ("cpu", "cuda") and dtype == "float64":
        raise ValueError(f"backend {backend!r} computes in float32: use 'reference' or 'dense' for float64")
    for wanted, module in (("cpu", "numba"), ("dense", "torch")):
        if backend == wanted and not _installed(module):
            raise ValueError(f"backend {backend!r} needs {module}: pip install 'gsdata[torch]'")
    if backend == "cuda" and (why := _cuda_problem()):
        raise ValueError(f"backend 'cuda' cannot be used: {why}")
    if backend != "auto":
        return backend  # type: ignore[return-value]
    if dtype == "float64":
        return "reference" if is_numpy else "dense"
    if device == "cuda":
        if (why := _cuda_problem()) is None:
            return "cuda"
        _tell_once(f"rendering with plain torch, slower and larger: {why}")
        return "dense"
    if device != "cpu":
        _tell_once(f"no kernel for device {device!r} in this version: rendering with plain torch, slower and larger")
        return "dense"
    if _installed("numba"):
        return "cpu"
    fallback: Backend = "dense" if _installed("torch") else "reference"
    _tell_once(f"numba is missing, rendering with the slow backend {fallback!r}: pip install 'gsdata[torch]'")
    return fallback


@functools.cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _cuda_problem() -> str | None:
    from gsdata.kernels import cuda_launch

    return cuda_launch.problem()


@functools.cache
def _tell_once(line: str) -> None:
    _log.warning(line)


def _render_float(
    gaussians: Gaussians, size: tuple[int, int], indices: NDArray[np.int64], backend: str, dtype: str
) -> Array:
    """The images in a floating-point type, of the kind of the input."""
    is_numpy = isinstance(gaussians.means, np.ndarray)
    if backend == "dense":
        from gsdata.kernels import dense

        batch = gaussians.torch()
        if dtype == "float64":
            # Folding comes after the conversion, so that the products are float64 too.
            values = {name: getattr(batch, name) for name in ("means", "cholesky", "colors", "opacities")}
            doubled: dict[str, Any] = {name: v if v is None else v.double() for name, v in values.items()}
            batch = replace(batch, **doubled)
        image = dense.render(batch, size, indices)
        return image.numpy() if is_numpy else image
    if is_numpy and backend == "reference":
        from gsdata.kernels import reference

        return reference.render(gaussians, size, indices)
    folded = gaussians.fold()
    if is_numpy:
        from gsdata.kernels import numpy_backends

        return numpy_backends.forward((folded.means, folded.cholesky, folded.colors), folded, size, indices, backend)
    from gsdata.kernels import differentiable

    return differentiable.render(differentiable.Task(folded, size, indices, backend))


def _convert(image: Array, dtype: str) -> Array:
    if isinstance(image, np.ndarray):
        if dtype == "uint8":
            # In place: the images were made for this call, and four copies would cost as much as rendering.
            np.clip(image, 0.0, 1.0, out=image)
            image *= 255.0
            return np.rint(image, out=image).astype(np.uint8)
        return image.astype(dtype, copy=False)
    import torch

    if dtype == "uint8":
        return (image.detach().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return image.to(getattr(torch, dtype))
