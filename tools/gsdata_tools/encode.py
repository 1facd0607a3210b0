"""``gsd-encode``: real images into a ``.gsd`` file."""

from __future__ import annotations

import argparse
import json
import time

from gsdata.atomic import write_atomically
from gsdata_tools import cli, gsdd_options, ranks

_STEPS = 1200
_RATE_WEIGHT = 0.05
_OUTPUT = (
    "the .gsd to write; X.png and X.json are written beside it, and X.ckpt/ until it is done. "
    "With --shards a folder, and DIR.ckpt/ until it is done"
)
_NOTES = """Without --gaussians and --bytes-per-image every image gets one Gaussian per 24 pixels (42 at 32x32).

--time-limit: a short trial chooses the number of steps so that the file should be done in time; the file stores that number,
and the same command with --steps set to it gives the same bytes.

--json: schema, images, psnr_mean, psnr_min and ssim_mean (of the uint8 images decoded from the closed file; equal images count
as 100 dB), bytes_total, bits_per_gaussian (the whole file), gaussians, steps, seconds (reading, fitting, writing and measuring;
not the compilation of the kernels, which happens once per machine), images_per_second.

--shards N writes DIR/SPLIT-000000.tar, ... and the report as DIR/SPLIT.json: tars of .gsd files of up to 1,024 images, for sets that are too large
for one file or for memory. All images are read twice, and few are in memory at a time; --bytes-per-image counts the tars. --resume keeps finished shards
after checking them. torchrun --nproc-per-node 2 -m gsdata_tools.encode ... --shards N divides the shards among processes, to the same bytes."""


def _parser() -> argparse.ArgumentParser:
    parser = cli.build_parser(
        "gsd-encode",
        "Fit real images with 2D Gaussians and write them as one .gsd file, or as shards.",
        examples=[
            "gsd-encode --data cifar10 --split test --limit 1000 --gaussians 42 -o c.gsd --json",
            "gsd-encode --data photos/ --size 128 --bytes-per-image 1500 -o photos.gsd",
            "gsd-encode --data imagenette-128 --split train --shards 4 -o shards/",
            "gsd-encode --from-gsdd state.pt --size 32 --classes 10 -o gsdd.gsd",
        ],
        notes=_NOTES,
    )
    cli.common_data_options(parser, required=False)
    group = parser.add_argument_group("the fit")
    amount = group.add_mutually_exclusive_group()
    amount.add_argument("--gaussians", type=cli.positive_int, metavar="N", help="Gaussians of every image")
    amount.add_argument(
        "--bytes-per-image",
        type=cli.positive_float,
        metavar="B",
        help="instead: the whole file weighs 98 to 100 %% of B times the number of images, never more",
    )
    group.add_argument(
        "--steps",
        type=cli.positive_int,
        default=_STEPS,
        metavar="N",
        help="optimiser steps per image; more is slower and better",
    )
    group.add_argument(
        "--tries",
        type=cli.positive_int,
        metavar="N",
        help="fits of every image to choose from, of which the best is kept; with --bytes-per-image they have different numbers of "
        "Gaussians, which go to the images that gain most (default: 2 with --bytes-per-image, else 1)",
    )
    group.add_argument(
        "--bits",
        type=cli.bit_widths,
        metavar=cli.BIT_WIDTHS,
        help="bits of a position's coordinate, a log-scale, the shear, a colour channel (default: 7/5/6/6 for 42 Gaussians at "
        "32x32, coarser for fewer, finer for more)",
    )
    group.add_argument(
        "--rate-weight",
        type=cli.rate_weight,
        default=_RATE_WEIGHT,
        metavar="X",
        help="what a bit on every Gaussian of an image must gain to be spent, in nats of squared error: more is smaller and "
        f"worse, up to about 1; 0 looks at the error alone (default: {_RATE_WEIGHT})",
    )
    group.add_argument(
        "--threads",
        type=cli.positive_int,
        metavar="N",
        help="threads (default: all cores); the file does not depend on it",
    )
    run = cli.common_run_options(parser, output_help=_OUTPUT, output_metavar="X.gsd|DIR")
    run.add_argument(
        "--shards",
        type=cli.positive_int,
        metavar="N",
        help="write N tars of .gsd files into a folder instead of one file",
    )
    gsdd_options.add_options(parser)
    return parser


def _main(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda":
        raise cli.UsageError("--device cuda: gsd-encode computes on the CPU; leave --device out")
    converting = gsdd_options.asked(parser, arguments)
    if arguments.shards is not None:
        return _sharded(arguments)
    if ranks.started() > 1:
        raise cli.UsageError(
            "several processes share shards, and one file is made by one process: give --shards N, or start one process"
        )
    if converting:
        return gsdd_options.run(arguments)
    output = cli.check_output(arguments.output, arguments.force, arguments.resume)
    deadline = cli.Deadline(arguments.time_limit)
    from gsdata_tools.encode_run import compile_kernels, encode

    compile_kernels()
    start = time.monotonic()
    report, checkpoint = encode(arguments, output, deadline)
    seconds = time.monotonic() - start
    report |= {"seconds": round(seconds, 6), "images_per_second": round(report["images"] / seconds, 3)}
    write_atomically(output.json, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    checkpoint.delete()
    if arguments.json:
        cli.write_json(report)
    elif not arguments.quiet:
        cli.note(
            f"{output.gsd}: {report['images']:,} images, {report['bytes_total']:,} bytes, {report['psnr_mean']:.2f} dB, "
            f"{report['bits_per_gaussian']:.2f} bits per Gaussian, {report['images_per_second']:.1f} images/s"
        )
    return 0


def _sharded(arguments: argparse.Namespace) -> int:
    if arguments.shards > 1_000_000:
        raise cli.UsageError(f"--shards {arguments.shards}: at most 1,000,000")
    deadline = cli.Deadline(arguments.time_limit)
    from gsdata_tools.encode_shards import encode_shards

    return encode_shards(arguments, deadline)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``gsd-encode``; returns the exit code."""
    return cli.run(_main, argv)


if __name__ == "__main__":
    raise SystemExit(main())
