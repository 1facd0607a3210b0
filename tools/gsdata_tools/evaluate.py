"""``gsd-eval``: how well a network trained on a ``.gsd`` does on real images, beside baselines of the same bytes."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsdata.atomic import write_atomically
from gsdata_tools import cli
from gsdata_tools.usage import UsageError

if TYPE_CHECKING:
    import gsdata
    from gsdata_tools.evaluation import Plan
    from gsdata_tools.evaluation_data import Real

_NOTES = """what is measured:
  A fresh network is trained on the images of the file and tested on real images that it never saw; once per seed. Each of
  --baselines does the same with random real images of the training split that weigh no more bytes: random-gsd stores them as
  Gaussians (gsd-encode), webp and jpeg with those codecs. Their quality is searched on held-out training images.
  All sets are trained alike: same steps, batch size, augmentation and learning rate.

networks (--model NAME[,NAME...]):
  ConvNet-D1 to ConvNet-D8, AlexNet, VGG11, ResNet18, ViT: the forms of papers on dataset distillation, with instance norm

protocols:
  fast   300 steps of 128 images, cosine schedule: about a minute a run of ConvNet-D3 on two cores
  gsdd   the published one: epochs 0 to 1,000 in batches of up to 256, rate 0.01 or the file's, a tenth of it after epoch 501;
         other networks than ConvNets by Adam with a cosine schedule: hours; the cost is stated first

choosing without the test images:
  --split held-out tests on a tenth of the training split: for choosing among files, options or iterations of a distillation.
  --checkpoints N keeps N states of each training and tests the one that recognises most of those images."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``gsd-eval``."""
    parser = cli.build_parser(
        "gsd-eval",
        "Train networks on a .gsd file and test them on real images.",
        examples=(
            "gsd-eval c10.gsd --data cifar10",
            "gsd-eval c10.gsd --data cifar10 --seeds 3 --baselines random-gsd,webp,jpeg --json -o c10-eval.json",
            "gsd-eval c10.gsd --data cifar10 --model ConvNet-D3,AlexNet,VGG11,ResNet18 --sizes 32,64",
            "gsd-eval c10.gsd --data cifar10 --export c10-ddranking",
        ),
        notes=_NOTES,
    )
    parser.add_argument("file", type=Path, metavar="FILE.gsd", help="the data set to train on")
    cli.common_data_options(parser, split="test")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--seeds", type=cli.positive_int, default=3, metavar="N", help="runs, seeded --seed and following"
    )
    group.add_argument(
        "--baselines", default="", metavar="LIST", help="any of random-gsd,webp,jpeg, comma-separated (default: none)"
    )
    group.add_argument("--protocol", default="fast", choices=("fast", "gsdd"), help="how networks are trained")
    group.add_argument(
        "--model", metavar="LIST", help="networks, comma-separated (default: the file's, else ConvNet-D3)"
    )
    group.add_argument(
        "--sizes",
        type=_sizes,
        metavar="LIST",
        help="render the file and resize real images to each of these sizes, such as 32,64 (default: the file's own)",
    )
    group.add_argument(
        "--labels",
        choices=("soft", "hard"),
        help="what images are trained with (default: soft where the file has them)",
    )
    group.add_argument("--steps", type=cli.positive_int, metavar="N", help="train N steps instead of the protocol's")
    group.add_argument(
        "--augment",
        metavar="OPS",
        help="operations of the augmentation joined by _, such as crop_flip, or none (default: the file's, else all)",
    )
    group.add_argument(
        "--lr", type=cli.positive_float, metavar="X", help="learning rate instead of the protocol's, for every network"
    )
    group.add_argument(
        "--checkpoints",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="of N evenly spaced states of each training, test the one that is best on held-out training images",
    )
    group.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="train nothing: write images.pt, labels.pt and lr.pt, which DD-Ranking reads, and export.json to DIR",
    )
    run = cli.common_run_options(parser, output=False)
    run.add_argument("-o", "--output", type=Path, metavar="OUT.json", help="write the JSON object there too")
    return parser


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    sides = [cli.image_size(part) for part in text.split(",")]
    return tuple(dict.fromkeys((side, side) if isinstance(side, int) else side for side in sides))


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``gsd-eval``."""
    return cli.run(_main, argv)


def _main(argv: list[str]) -> int:
    arguments = build_parser().parse_args(argv)
    deadline = cli.Deadline(arguments.time_limit)
    folder = _check_paths(arguments)

    import gsdata

    bytes_total = arguments.file.stat().st_size
    with gsdata.open(arguments.file) as file:
        file.verify()
        if file.label_kind == "none" or len(file) == 0:
            raise UsageError(f"{file.path}: it has no {'labels' if len(file) else 'images'} to train on")
        if arguments.export is not None:
            return _export(file, arguments)
        return _evaluate(file, bytes_total, arguments, folder, deadline)


def _evaluate(
    file: gsdata.GsdFile, bytes_total: int, arguments: argparse.Namespace, folder: Path, deadline: cli.Deadline
) -> int:
    from gsdata_tools import evaluation_data
    from gsdata_tools.evaluation import Evaluation
    from gsdata_tools.evaluation_report import report, table
    from gsdata_tools.printing import show

    plan = _plan(file, arguments)
    if file.recipe.zca is not None:
        plan = replace(plan, normalization=evaluation_data.whitening_of(file, arguments.data, arguments.size))
    real = evaluation_data.load(
        file,
        arguments.sizes,
        data=arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        size=arguments.size,
        seed=arguments.seed,
        need_pool=bool(plan.baselines) or plan.checkpoints > 1,
    )
    checkpoint = cli.Checkpoint(folder, _options(file, arguments, plan, real), resume=arguments.resume)
    evaluation = Evaluation(file, bytes_total, real, plan, checkpoint, deadline, arguments.quiet)
    if arguments.protocol == "gsdd" and not arguments.quiet:
        cli.note(evaluation.cost())
    try:
        evaluation.run()
    except KeyboardInterrupt:
        if arguments.output is not None or not checkpoint.names():
            raise
        cli.note(f"stopped; finished runs are in {folder}: the same command with --resume continues")
        return 130
    result = report(evaluation)
    if arguments.output is not None:
        text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        write_atomically(arguments.output, text.encode())
    if evaluation.complete:
        checkpoint.delete()
    else:
        cli.note(
            f"--time-limit ended it early; finished runs are in {folder}: the same command with --resume continues"
        )
    if arguments.json:
        cli.write_json(result)
    else:
        show(table(result))
    return 0


def _plan(file: gsdata.GsdFile, arguments: argparse.Namespace) -> Plan:
    from gsdata_tools import models, networks
    from gsdata_tools.baselines import check_names
    from gsdata_tools.evaluation import Case, Plan
    from gsdata_tools.evaluation_data import normalization_of
    from gsdata_tools.train import choose_protocol, for_network

    if arguments.labels == "soft" and file.label_kind != "soft":
        raise UsageError(f"--labels soft: {file.path} has {file.label_kind} labels only")
    sizes = _sizes_of(file, arguments)
    augment = file.recipe.augment if arguments.augment is None else arguments.augment
    learned = file.recipe.lr if arguments.protocol == "gsdd" else None
    protocol = choose_protocol(arguments.protocol, augment=augment, steps=arguments.steps, lr=learned)
    cases = []
    for model in models.canonical_names(arguments.model or file.recipe.model or networks.DEFAULT_MODEL):
        for size in sizes:  # what cannot be built is refused now rather than after loading
            count = models.parameter_count(models.build(model, file.channels, file.class_count, size, seed=0))
            cases.append(Case(model, size, count, for_network(protocol, model, lr=arguments.lr)))
    return Plan(
        cases=tuple(cases),
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        baselines=check_names(arguments.baselines, file.channels),
        normalization=normalization_of(file),
        device=cli.resolve_device(arguments.device),
        labels=arguments.labels or file.label_kind,
        checkpoints=arguments.checkpoints,
    )


def _sizes_of(file: gsdata.GsdFile, arguments: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    """The sizes that are asked for, if the file can be shown at them."""
    sizes: tuple[tuple[int, int], ...] = arguments.sizes or (file.size,)
    if file.recipe.zca is not None and sizes != (file.size,):
        raise UsageError(
            f"--sizes: {file.path} is whitened by ZCA, which is for images of {file.size[0]}x{file.size[1]} only"
        )
    for size in sizes:
        if size[0] * file.size[1] != size[1] * file.size[0]:
            raise UsageError(
                f"--sizes {size[0]}x{size[1]}: {file.path} holds images of {file.size[0]}x{file.size[1]}, and a size must "
                "keep their proportions"
            )
    return sizes


def _options(file: gsdata.GsdFile, arguments: argparse.Namespace, plan: Plan, real: Real) -> dict[str, Any]:
    """What decides the results of single runs; more seeds, baselines, networks or further sizes may be asked for when resuming."""
    test = next(iter(real.tests.values()))
    return {
        "file": file.sha256,
        "data": arguments.data,
        "split": test.split,
        "test": test.digest,
        "seed": arguments.seed,
        "protocol": arguments.protocol,
        "steps": plan.cases[0].protocol.steps,
        "lr": arguments.lr,
        "augment": plan.cases[0].protocol.augment,
        "labels": plan.labels,
        "checkpoints": plan.checkpoints,
        "device": plan.device,
    }


def _export(file: gsdata.GsdFile, arguments: argparse.Namespace) -> int:
    """``--export``: the set as tensors."""
    from gsdata_tools import ddranking
    from gsdata_tools.evaluation_data import normalization_of, whitening_of
    from gsdata_tools.train import PROTOCOLS, Normalization
    from gsdata_tools.whitening import Whitening

    sizes = _sizes_of(file, arguments)
    if len(sizes) > 1:
        raise UsageError("--export writes one size: give one in --sizes")
    unit: Normalization | Whitening = ddranking.NORMALIZATIONS.get(arguments.data) or normalization_of(file)
    if file.recipe.zca is not None:
        unit = whitening_of(file, arguments.data, arguments.size)
    said = ddranking.export(
        file,
        arguments.export,
        normalization=unit,
        lr=arguments.lr or file.recipe.lr or PROTOCOLS["gsdd"].lr,
        size=sizes[0],
        force=arguments.force,
    )
    if arguments.json:
        cli.write_json(said)
    else:
        cli.note(f"wrote images.pt, labels.pt, lr.pt and export.json to {arguments.export}")
    return 0


def _check_paths(arguments: argparse.Namespace) -> Path:
    """Refuse before any work what could not be written after it; returns the folder of the checkpoint."""
    if not arguments.file.is_file():
        raise UsageError(f"{arguments.file}: there is no such file")
    if arguments.export is not None:
        from gsdata_tools.export_folder import check_folder

        check_folder(arguments.export, arguments.force, "--export")
        return Path()
    output: Path | None = arguments.output
    folder = arguments.file.with_suffix(".eval.ckpt") if output is None else output.with_suffix(".ckpt")
    if output is not None:
        if output.suffix != ".json":
            raise UsageError(f"-o {output}: the name must end in .json")
        if not output.parent.is_dir():
            raise UsageError(f"-o {output}: there is no folder {output.parent}; make it first")
        if output.is_dir() or (output.exists() and not arguments.force and not (arguments.resume and folder.is_dir())):
            raise UsageError(f"{output} exists already; --force overwrites it")
    if folder.exists() and not (arguments.force or arguments.resume):
        raise UsageError(f"{folder} is left over from a stopped run: --resume continues it, --force starts again")
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
