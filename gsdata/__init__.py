"""gsdata: image datasets as sparse, quantised 2D Gaussians.

Every public name is a lazy attribute, so that ``import gsdata`` loads neither torch nor numba nor cupy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsdata.arrays import to_numpy
    from gsdata.dataset import GaussianDataset
    from gsdata.errors import BudgetError, ChecksumError, FormatError, GsdError, LimitError, VersionError
    from gsdata.file import GsdFile, merge, open, save, to_bytes
    from gsdata.gaussians import Gaussians
    from gsdata.loader import GaussianLoader
    from gsdata.quantize import Codes, Quantizer, QuantizerSet
    from gsdata.recipe import Recipe
    from gsdata.rendering import render

__version__ = "0.1.0"

_HOMES = {
    "to_numpy": "arrays",
    "GaussianDataset": "dataset",
    "BudgetError": "errors",
    "ChecksumError": "errors",
    "FormatError": "errors",
    "GsdError": "errors",
    "LimitError": "errors",
    "VersionError": "errors",
    "GsdFile": "file",
    "merge": "file",
    "open": "file",
    "save": "file",
    "to_bytes": "file",
    "Gaussians": "gaussians",
    "GaussianLoader": "loader",
    "Codes": "quantize",
    "Quantizer": "quantize",
    "QuantizerSet": "quantize",
    "Recipe": "recipe",
    "render": "rendering",
}

__all__ = [
    "BudgetError",
    "ChecksumError",
    "Codes",
    "FormatError",
    "GaussianDataset",
    "GaussianLoader",
    "Gaussians",
    "GsdError",
    "GsdFile",
    "LimitError",
    "Quantizer",
    "QuantizerSet",
    "Recipe",
    "VersionError",
    "__version__",
    "merge",
    "open",
    "render",
    "save",
    "to_bytes",
    "to_numpy",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gsdata' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gsdata.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
