"""``gsd-export``: the images of a ``.gsd`` in the formats of others."""

from __future__ import annotations

import argparse
import importlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsdata_tools import cli
from gsdata_tools.usage import UsageError

if TYPE_CHECKING:
    from gsdata_tools.export_source import ImageStream

_FORMATS = ("png", "npz", "pt", "wds", "parquet")
_NOTES = """formats:
  png      a folder of class folders with NUMBER.png, which torchvision's ImageFolder and --data read
  npz      x (uint8 NHWC), y, classes; of soft labels also soft (float32)
  pt       images.pt (float32, normalised, ordered by class), labels.pt and, if the recipe has one, lr.pt: for DD-Ranking
  wds      WebDataset tars of NUMBER.png, NUMBER.cls; of soft labels also NUMBER.soft.npy
  parquet  what Hugging Face's datasets reads: image, label with the names of classes; of soft labels also soft_label

Pixels are those that a reader of the file sees as uint8, except in pt. png, and cls, y and label elsewhere, hold the class of
the largest weight of a soft label. Folders get an export.json that says what they are. Outputs appear when they are complete.

class folders (png) have the names of the classes if these are safe in paths and in sorting order; else NUMBER_NAME, with _ for
what is neither a letter, a digit nor one of _-+.,'()&=@#! and space, and at most 100 bytes of NAME."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``gsd-export``."""
    parser = cli.build_parser(
        "gsd-export",
        "Write the images of a .gsd file or of shards as PNGs, arrays, tensors, WebDataset shards or parquet.",
        examples=(
            "gsd-export c10.gsd --to png -o c10/",
            "gsd-export c10.gsd --to npz --size 64 -o c10-64.npz",
            "gsd-export shards/ --to parquet --split test -o c10-hf/",
        ),
        notes=_NOTES,
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a .gsd, or a folder of its shards (or one of them, or a quoted pattern)",
    )
    group = parser.add_argument_group("what is written")
    group.add_argument("--to", required=True, choices=_FORMATS, metavar="FORMAT", help=f"one of {', '.join(_FORMATS)}")
    group.add_argument(
        "--size", type=cli.image_size, metavar="S|HxW", help="render at this size (default: the file's own)"
    )
    group.add_argument(
        "--layout",
        choices=("classes", "flat"),
        help="png: a folder for each class, or one for all, with labels in export.json (default: classes)",
    )
    group.add_argument(
        "--split",
        type=_word,
        metavar="NAME",
        help="wds, parquet: first word of the names of files, such as test (default: shard for wds, train for parquet)",
    )
    group.add_argument(
        "--shard-images",
        type=cli.positive_int,
        metavar="N",
        help="wds, parquet: images of a file, at most (default: 10000)",
    )
    group.add_argument(
        "--normalize",
        choices=("auto", "recipe", "cifar10", "imagenette-128", "none"),
        help="pt: by the file's recipe or DD-Ranking's constants for a data set; auto takes the latter where the file says that it "
        "was made from one (default: auto)",
    )
    run = parser.add_argument_group("the run")
    run.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the folder to write, or the file X.npz"
    )
    run.add_argument("--force", action="store_true", help="replace X.npz, or a folder that an earlier export wrote")
    run.add_argument("--quiet", action="store_true", help="no progress on standard error")
    run.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    return parser


_NEEDS = {"png": ("PIL",), "npz": (), "pt": ("torch",), "wds": ("PIL",), "parquet": ("pyarrow", "PIL")}
_ONLY = {
    "layout": ("png",),
    "split": ("wds", "parquet"),
    "shard_images": ("wds", "parquet"),
    "normalize": ("pt",),
}


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text, re.ASCII):
        raise UsageError(f"{text!r} is not a word of letters, digits, _ and -")
    return text


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``gsd-export``."""
    return cli.run(_main, argv)


def _main(argv: list[str]) -> int:
    arguments = build_parser().parse_args(argv)
    for name, formats in _ONLY.items():
        if getattr(arguments, name) is not None and arguments.to not in formats:
            raise UsageError(f"--{name.replace('_', '-')} is for --to {' and '.join(formats)}")
    from gsdata_tools import export_folder
    from gsdata_tools.export_source import open_stream

    if arguments.to == "npz":
        export_folder.check_file(arguments.output, arguments.force, ".npz")
    else:
        export_folder.check_folder(arguments.output, arguments.force)
    for module in _NEEDS[arguments.to]:
        importlib.import_module(module)  # what is missing is said before any work
    start = time.monotonic()
    with open_stream(arguments.file, arguments.size) as stream:
        if arguments.to in ("png", "wds", "parquet") and stream.channels in (2, 4):
            cli.note(f"PNG has channel {stream.channels} as opacity, which readers may apply; npz and pt keep it apart")
        with cli.Progress(len(stream), "images", arguments.quiet) as progress, _output(arguments) as target:
            extra = _write(stream, target, arguments, progress)
        report = _report(stream, arguments, extra)
    report["seconds"] = round(time.monotonic() - start, 3)
    if arguments.json:
        cli.write_json(report)
    elif not arguments.quiet:
        kept = f"; of soft labels: {report['labels_kept']}" if stream.label_kind == "soft" else ""
        cli.note(f"{arguments.output}: {report['images']:,} images, {report['bytes']:,} bytes{kept}")
    return 0


@contextmanager
def _output(arguments: argparse.Namespace) -> Iterator[Path]:
    from gsdata_tools import export_folder

    new = export_folder.new_file if arguments.to == "npz" else export_folder.new_folder
    with new(arguments.output, arguments.force) as target:
        yield target


def _write(stream: ImageStream, target: Path, arguments: argparse.Namespace, progress: cli.Progress) -> dict[str, Any]:
    """Write in the wanted format; returns what that format adds to the report."""
    if arguments.to == "pt":
        from gsdata_tools import ddranking

        if stream.label_kind == "none":
            raise UsageError(f"{stream.name}: it has no labels, and --to pt needs them: --to npz writes images alone")
        unit = ddranking.normalization_for(stream, arguments.normalize or "auto")
        said = ddranking.write_tensors(
            stream, target, normalization=unit, lr=stream.recipe.lr, progress=progress.update
        )
        return {name: said[name] for name in ("images_per_class", "normalization", "lr")}
    from gsdata_tools import export_formats

    options = export_formats.Options(
        layout=arguments.layout or "classes",
        split=arguments.split,
        shard_images=arguments.shard_images or export_formats.SHARD_IMAGES,
        progress=progress.update,
    )
    write = {
        "png": export_formats.write_png,
        "npz": export_formats.write_npz,
        "wds": export_formats.write_wds,
        "parquet": export_formats.write_parquet,
    }[arguments.to]
    extra = write(stream, target, options)
    if missing := extra.get("classes_without_images"):
        cli.note(
            f"{len(missing)} classes have no images and so no folder ({missing[0]!r:.60}, ...): readers of class folders number "
            "the classes after them otherwise"
        )
    return extra


def _report(stream: ImageStream, arguments: argparse.Namespace, extra: dict[str, Any]) -> dict[str, Any]:
    from gsdata_tools.export_formats import describe

    output: Path = arguments.output
    files = [output] if output.is_file() else [file for file in output.rglob("*") if file.is_file()]
    sizes = {"output": str(output), "files": len(files), "bytes": sum(file.stat().st_size for file in files)}
    return describe(stream, arguments.to) | extra | sizes


if __name__ == "__main__":
    raise SystemExit(main())
