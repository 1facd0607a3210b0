"""``gsd-encode --from-gsdd`` on the command line: its options, and which of the others say nothing for it."""

from __future__ import annotations

import argparse
from pathlib import Path

from gsdata_tools import cli
from gsdata_tools.usage import UsageError

# Options of gsd-encode about real images and how they are fitted, and what they are without being typed.
_OF_IMAGES = [
    "split",
    "limit",
    "gaussians",
    "bytes_per_image",
    "steps",
    "tries",
    "rate_weight",
    "threads",
    "time_limit",
    "resume",
    "shards",
]
_OWN = ["classes", "labels", "precision", "split_opacity", "zca"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--from-gsdd`` and what it takes."""
    group = parser.add_argument_group("a checkpoint of the reference method's code instead of real images")
    group.add_argument(
        "--from-gsdd",
        type=Path,
        metavar="FILE",
        help="convert the state dict of a GSDD set (tensors only, loaded with weights_only=True) and report how far pixels differ; "
        "needs --size, and --classes or --labels; --bits is 10/8/8/8 if not given",
    )
    group.add_argument(
        "--classes",
        type=_classes,
        metavar="K|NAMES",
        help="number of classes, or their names with commas between; images are in the order of classes unless --labels says "
        "otherwise; 0: without labels",
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="class of each image: .npy, or .pt (a tensor)")
    group.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        help="the code's setting of that name: bf16 rounds parameters before they are drawn (default: bf16)",
    )
    group.add_argument(
        "--split-opacity",
        type=cli.positive_float,
        metavar="A",
        help="a Gaussian with an opacity above A becomes two, which is closer and takes more bytes (default: 1.2)",
    )
    group.add_argument(
        "--zca",
        metavar="DATA",
        help="the set was distilled on images whitened by ZCA of this data, such as cifar10: what the recipe then says",
    )


def asked(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> bool:
    """Whether a checkpoint is to be converted; real images are to be encoded otherwise.

    Raises:
        UsageError: neither or both are given, or options of the other.
    """
    if arguments.from_gsdd is None:
        typed = _typed(parser, arguments, _OWN)
        if typed:
            raise UsageError(f"{typed} is for --from-gsdd")
        if arguments.data is None:
            raise UsageError("what to encode? --data SPEC names real images, --from-gsdd FILE a checkpoint of GSDD")
        return False
    if arguments.data is not None:
        raise UsageError("--data and --from-gsdd: give one of the two")
    typed = _typed(parser, arguments, _OF_IMAGES)
    if typed:
        raise UsageError(f"{typed} is for --data and says nothing for --from-gsdd")
    if not arguments.from_gsdd.is_file():
        raise UsageError(f"--from-gsdd {arguments.from_gsdd}: there is no such file")
    arguments.precision = arguments.precision or "bf16"
    return True


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say what came out."""
    output = cli.check_output(arguments.output, arguments.force)
    from gsdata_tools.gsdd_run import encode_gsdd

    report = encode_gsdd(arguments, output)
    if arguments.json:
        cli.write_json(report)
    elif not arguments.quiet:
        cli.note(
            f"{output.gsd}: {report['images']:,} images, {report['bytes_total']:,} bytes of {report['checkpoint_bytes']:,}; to the "
            f"reference renderer's images {report['psnr_mean']:.2f} dB, at worst {report['psnr_min']:.2f}; pixels (0 to 1) differ by "
            f"{report['difference_rms']:.4f} rms, {report['difference_max']:.3f} at most"
        )
    return 0


def _typed(parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: list[str]) -> str:
    """The first of some options that was given, as it is typed."""
    given = (name for name in names if getattr(arguments, name, None) != parser.get_default(name))
    return next((f"--{name.replace('_', '-')}" for name in given), "")


def _classes(text: str) -> int | tuple[str, ...]:
    if text.isascii() and text.isdecimal() and len(text) <= 5:
        return int(text)
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) != len(names):
        raise UsageError(f"{text[:60]!r} is neither a number of classes nor different names with commas between")
    return names
