"""``gsd-distill``: a large training set into a small ``.gsd`` that still trains a good network, under a byte budget.

Each method is a verb with a module of its own (``dm``: distribution matching, ``dm.py``; ``dc``: gradient matching,
``dc.py``; ``tm``: trajectory matching, ``tm.py``). What they share is here and in ``distilling.py``: the budget, the first
set, checkpoints, and closing the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gsdata_tools import cli, presets

STRATEGY = "dsa:color_crop_cutout_flip_scale_rotate"
OUTPUT = "the .gsd to write; beside it X.png, X.json, X.monitors.png (with matplotlib), and X.ckpt/ until it is done"
NOTES = """The finished file weighs 98 to 100 % of the budget, never more. A time limit also covers the first fit, but does not
cut it short; --iterations with the number of steps that a limited run made gives the same bytes.

torchrun --nproc-per-node N -m gsdata_tools.distill instead of gsd-distill runs N processes, one per GPU or on a part of the cores each.
"""
CLASSES_DIVIDED = """They divide the classes of a step: more processes than --classes-per-step have nothing to do.
The result is that of one process but for rounding; --resume goes on with any number of them.
"""
DC_NOTES = """The published settings are --batch-real 256 --batch-syn 0 --classes-per-step 0, with --outer-loop 1 for one image per
class, and --outer-loop 10 --inner-loop 50 for ten. The defaults are a first choice for a CPU: a gradient of a gradient
costs several times what a step of dm costs.

"""
BATCHES_DIVIDED = """They divide each batch of --batch-syn images; the student's steps follow one another, and cannot be divided.
The result is that of one process but for rounding; --resume goes on with any number of them.
"""
TM_NOTES = """The published settings for CIFAR-10 are --syn-steps 60 --batch-syn 300 --max-start-epoch 30 --iterations 15000. The defaults
are a first choice for a CPU. The file's recipe has the learning rate that was learned.

"""


def set_options(parser: argparse.ArgumentParser) -> None:
    """Options of every method: the budget and the first set."""
    group = parser.add_argument_group("the set")
    group.add_argument(  # presets.expand has replaced it before
        "--preset", metavar="NAME", default=argparse.SUPPRESS, help="settings by name; gsd-distill --help lists them"
    )
    budget = group.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--ipc", type=cli.positive_int, metavar="K", help="budget: the bytes of K uncompressed images per class"
    )
    budget.add_argument("--bytes", type=cli.positive_int, metavar="B", help="budget: bytes of the whole file")
    group.add_argument(
        "--convention",
        choices=("float32", "uint8"),
        default="float32",
        help="how --ipc counts a pixel value: 4 bytes, as papers do, or 1",
    )
    group.add_argument(
        "--images-per-class", type=cli.positive_int, metavar="N", help="images of each class (default: planned)"
    )
    group.add_argument(
        "--gaussians", type=cli.positive_int, metavar="N", help="Gaussians of an image (default: planned)"
    )
    group.add_argument(
        "--bits",
        type=cli.bit_widths,
        metavar=cli.BIT_WIDTHS,
        help="bits of a position's coordinate, a log-scale, the shear, a colour channel (default: planned; 7/5/6/6 for CIFAR-10)",
    )
    group.add_argument(
        "--init",
        choices=("real", "warmup", "random"),
        default="real",
        help="start from fitted real images, from Gaussians fitted to plain grey, or from noise",
    )
    group.add_argument(
        "--choose",
        choices=("typical", "kmeans", "random"),
        default="typical",
        help="which real images to start from: ones that networks trained on the real data find neither trivial nor hard, "
        "the ones nearest to k-means centres, or any",
    )
    group.add_argument(
        "--soft-labels",
        type=cli.minor_part,
        metavar="W",
        help="store soft labels, within the budget: 1 - W for the own class, and W for what networks that were trained on the real data "
        "take the first set's image for; needs --init real (default: hard labels)",
    )
    group.add_argument("--fit-steps", type=cli.positive_int, default=500, metavar="N", help="steps of the first fit")


def method_options(
    parser: argparse.ArgumentParser, *, iterations: int, pretrains: bool = True
) -> argparse._ArgumentGroup:
    """Options of every method's steps.

    Args:
        parser: of the verb.
        iterations: default number of steps.
        pretrains: whether the method may train networks on the real data before it begins.
    """
    group = parser.add_argument_group("the method")
    group.add_argument("--iterations", type=cli.nonnegative_int, default=iterations, metavar="N", help="steps to make")
    group.add_argument("--model", default="ConvNet-D3", metavar="NAME", help="network to match with")
    group.add_argument("--augment", default=STRATEGY, metavar="NAMES", help="Siamese augmentation, or none")
    group.add_argument(
        "--lr", type=cli.nonnegative_float, default=1.0, metavar="X", help="factor on the built-in learning rates"
    )
    group.add_argument(
        "--boundary",
        type=cli.nonnegative_float,
        default=0.1,
        metavar="X",
        help="weight of the boundary loss; 0 for none",
    )
    group.add_argument(
        "--boundary-form",
        choices=("log", "power"),
        default="log",
        help="of the boundary loss: the published logarithmic barrier, or the eighth power of positions",
    )
    group.add_argument(
        "--rate-weight",
        type=cli.rate_weight,
        default=0.0,
        metavar="X",
        help="what a coded bit costs: the loss grows by X times the estimated bits of an image, the mean over those of the step",
    )
    group.add_argument("--no-clamp", action="store_true", help="let positions leave the image")
    group.add_argument(
        "--recycle",
        action="store_true",
        help="every 100 steps, take out Gaussians that left the image, get no gradient or show no longer, and split as many others",
    )
    if pretrains:
        group.add_argument(
            "--pretrain",
            type=cli.positive_int,
            nargs=2,
            default=(3, 150),
            metavar=("NETWORKS", "STEPS"),
            help="short trainings on the real data, where networks that know the classes are needed (default: 3 150)",
        )
    return group


def class_options(group: argparse._ArgumentGroup, *, batch_real: int, batch_syn: int, networks: str) -> None:
    """Options of methods that compare real with synthetic batches class by class; some have a default of the method."""
    group.add_argument(
        "--batch-real", type=cli.positive_int, default=batch_real, metavar="N", help="real images per class and step"
    )
    group.add_argument(
        "--batch-syn",
        type=cli.nonnegative_int,
        default=batch_syn,
        metavar="N",
        help="most synthetic images per class and step; 0 takes all",
    )
    group.add_argument(
        "--classes-per-step",
        type=cli.nonnegative_int,
        default=2,
        metavar="N",
        help="classes per step, in turn; 0 takes all",
    )
    group.add_argument(
        "--networks",
        choices=("random", "trained"),
        default=networks,
        help="match with fresh random networks (the published method), or with snapshots of networks that are "
        "trained on the real data for a short time first",
    )


def _dm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = cli.add_command(
        commands,
        "dm",
        "Distribution matching: synthetic images get the mean features of the real ones.",
        examples=[
            "gsd-distill dm --data cifar10 --ipc 1 --time-limit 45m -o c10.gsd",
            "gsd-distill dm --data folder/ --bytes 200000 --images-per-class 50 --iterations 500 -o small.gsd",
            "gsd-distill dm --data cifar10 --ipc 1 --networks random --choose random -o published.gsd",
        ],
        notes=NOTES + CLASSES_DIVIDED,
    )
    cli.common_data_options(parser)
    set_options(parser)
    group = method_options(parser, iterations=4000)
    class_options(group, batch_real=256, batch_syn=32, networks="trained")
    group.add_argument(
        "--classify",
        type=cli.nonnegative_float,
        metavar="X",
        help="weight of the trained networks' cross-entropy on the synthetic images; 0 for none, as published "
        "(default: 5, and 0 with --networks random)",
    )
    cli.common_run_options(parser, output_help=OUTPUT)


def _dc(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = cli.add_command(
        commands,
        "dc",
        "Gradient matching: a network learns from synthetic images what it learns from the real ones.",
        examples=[
            "gsd-distill dc --data mnist --limit 5000 --ipc 1 --iterations 100 -o dc.gsd",
            "gsd-distill dc --data cifar10 --ipc 1 --batch-real 256 --batch-syn 0 --classes-per-step 0 --outer-loop 10 --inner-loop 50 -o long.gsd",
        ],
        notes=DC_NOTES + NOTES + CLASSES_DIVIDED,
    )
    cli.common_data_options(parser)
    set_options(parser)
    parser.set_defaults(choose="random")
    group = method_options(parser, iterations=500)
    class_options(group, batch_real=128, batch_syn=20, networks="random")
    group.add_argument(
        "--micro-batch",
        type=cli.positive_int,
        default=64,
        metavar="N",
        help="real images whose gradient is computed at once: less takes less memory and changes nothing but rounding",
    )
    group.add_argument(
        "--outer-loop",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="steps that one network is matched in, before the next one",
    )
    group.add_argument(
        "--inner-loop",
        type=cli.nonnegative_int,
        default=1,
        metavar="N",
        help="epochs that a network is trained on the synthetic set between two of its steps",
    )
    cli.common_run_options(parser, output_help=OUTPUT)


def _tm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = cli.add_command(
        commands,
        "tm",
        "Trajectory matching: training on the synthetic images leads where experts went.",
        examples=[
            "gsd-experts --data cifar10 --experts 20 -o experts/",
            "gsd-distill tm --data cifar10 --expert-dir experts/ --ipc 1 -o c10.gsd",
        ],
        notes=TM_NOTES + NOTES + BATCHES_DIVIDED,
    )
    cli.common_data_options(parser)
    set_options(parser)
    group = method_options(parser, iterations=1000, pretrains=False)
    group.add_argument(
        "--expert-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="what gsd-experts wrote, from the same real images",
    )
    group.add_argument(
        "--syn-steps", type=cli.positive_int, default=20, metavar="N", help="steps of the student in each iteration"
    )
    group.add_argument(
        "--batch-syn",
        type=cli.nonnegative_int,
        default=100,
        metavar="N",
        help="synthetic images in each of these steps; 0 takes all",
    )
    group.add_argument(
        "--expert-epochs",
        type=cli.positive_int,
        default=2,
        metavar="N",
        help="epochs of the expert that the student should catch up with",
    )
    group.add_argument(
        "--max-start-epoch",
        type=cli.positive_int,
        metavar="N",
        help="students start at one of the first N epochs (default: 30, or as many as the experts allow)",
    )
    group.add_argument(
        "--lr-init",
        type=cli.positive_float,
        metavar="X",
        help="the student's first learning rate (default: the experts')",
    )
    group.add_argument(
        "--lr-lr",
        type=cli.nonnegative_float,
        default=1e-5,
        metavar="X",
        help="the learning rate of the student's learning rate; 0 keeps the first",
    )
    group.add_argument(
        "--gradient",
        choices=("exact", "separable"),
        default="exact",
        help="separable leaves out how a step of the student changes those after it: faster, and the more "
        "wrong the more steps there are",
    )
    cli.common_run_options(parser, output_help=OUTPUT)


def _parser() -> argparse.ArgumentParser:
    parser = cli.build_parser(
        "gsd-distill",
        "Distil a training set into a small .gsd file, under a byte budget.",
        examples=[
            "gsd-distill dm --data cifar10 --ipc 1 --time-limit 45m -o c10.gsd",
            "gsd-distill tm --data cifar10 --expert-dir experts/ --ipc 1 -o c10.gsd",
            "gsd-distill --preset gsdd-cifar10-ipc10 --expert-dir experts/ -o c10.gsd",
        ],
        notes=presets.listing(),
    )
    commands = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    _dm(commands)
    _dc(commands)
    _tm(commands)
    return parser


def _main(argv: list[str]) -> int:
    arguments = _parser().parse_args(presets.expand(argv))
    from gsdata_tools.distilling import distill

    return distill(arguments)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``gsd-distill``; returns the exit code."""
    return cli.run(_main, argv)


if __name__ == "__main__":
    raise SystemExit(main())
