"""``gsd-experts``: networks trained on real images, kept after every epoch, for ``gsd-distill tm`` to match."""

from __future__ import annotations

import argparse

from gsdata_tools import cli
from gsdata_tools.distill import STRATEGY

_NOTES = """-o names a folder: it gets expert-000.safetensors and so on, and E.ckpt/ is beside it until all are there. Expert k depends
on the seed and k alone, so a later --experts with a larger number and --resume adds to the folder. --time-limit keeps the
experts that are done, and --resume goes on with the one that was in training.

torchrun --nproc-per-node N -m gsdata_tools.experts instead of gsd-experts divides the experts among N processes, one per GPU or on a part
of the cores each; all write into the same folder. --resume goes on with any number of them.

The defaults of --epochs to --weight-decay are the published ones of trajectory matching."""


def _parser() -> argparse.ArgumentParser:
    parser = cli.build_parser(
        "gsd-experts",
        "Train networks on real images and keep their weights after every epoch, for gsd-distill tm.",
        examples=[
            "gsd-experts --data cifar10 --experts 20 -o experts/",
            "gsd-experts --data mnist --limit 5000 --experts 2 --epochs 6 --augment none -o e/",
        ],
        notes=_NOTES,
    )
    cli.common_data_options(parser)
    group = parser.add_argument_group("the trainings")
    group.add_argument("--experts", type=cli.positive_int, default=100, metavar="K", help="how many")
    group.add_argument("--epochs", type=cli.positive_int, default=50, metavar="E", help="epochs of each")
    group.add_argument("--model", default="ConvNet-D3", metavar="NAME", help="network")
    group.add_argument("--augment", default=STRATEGY, metavar="NAMES", help="augmentation, or none")
    group.add_argument("--batch-size", type=cli.positive_int, default=256, metavar="N", help="images per step")
    group.add_argument("--lr", type=cli.positive_float, default=0.01, metavar="X", help="learning rate, constant")
    group.add_argument("--momentum", type=_momentum, default=0.0, metavar="X", help="of SGD; 0 is plain SGD")
    group.add_argument("--weight-decay", type=cli.nonnegative_float, default=0.0, metavar="X", help="of SGD")
    group.add_argument(
        "--zca",
        type=cli.positive_float,
        nargs="?",
        const=0.1,
        metavar="EPSILON",
        help="whiten the images by ZCA instead of taking mean and standard deviation, as published for CIFAR (0.1 where no EPSILON is given)",
    )
    group.add_argument(
        "--at-once",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="train N experts in one batched computation: the same but for rounding, for GPUs that one does not fill",
    )
    group.add_argument("--half", action="store_true", help="store weights as float16, in half of the bytes")
    cli.common_run_options(
        parser,
        output_help="the folder to write; a folder of the same name and .ckpt is beside it until all experts are there",
        output_metavar="DIR",
    )
    return parser


def _momentum(text: str) -> float:
    if (value := cli.nonnegative_float(text)) >= 1:
        raise cli.UsageError(f"{text!r} is not below 1")
    return value


def _main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    from gsdata_tools.experts_run import train_experts

    return train_experts(arguments)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``gsd-experts``; returns the exit code."""
    return cli.run(_main, argv)


if __name__ == "__main__":
    raise SystemExit(main())
