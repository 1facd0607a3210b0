"""``gsd-eval``: how well a network trained on a ``.gsd`` does on real images, beside baselines of the same bytes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsdata_tools import cli
from gsdata_tools.usage import UsageError

if TYPE_CHECKING:
    import gsdata
    from gsdata_tools.evaluation import Plan
    from gsdata_tools.sources import ImageSet

_NOTES = """what is measured:
  A fresh network is trained on the images of the file and tested on real images that it never saw; once per seed. Each of
  --baselines does the same with random real images of the training split that weigh no more bytes: random-gsd stores them as
  Gaussians (gsd-encode), webp and jpeg with those codecs. Their quality is searched on held-out training images.
  All sets are trained alike: same steps, batch size, augmentation and learning rate.

protocols:
  fast   300 steps of 128 images, cosine schedule: about a minute a run on two cores
  gsdd   1,000 epochs in batches of 256, rate 0.01, a tenth of it after half: hours; the cost is stated first"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``gsd-eval``."""
    parser = cli.build_parser(
        "gsd-eval",
        "Train networks on a .gsd file and test them on real images.",
        examples=(
            "gsd-eval c10.gsd --data cifar10",
            "gsd-eval c10.gsd --data cifar10 --seeds 3 --baselines random-gsd,webp,jpeg --json -o c10-eval.json",
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
        "--model", metavar="NAME", help="ConvNet-D1 to ConvNet-D8 (default: the file's, else ConvNet-D3)"
    )
    group.add_argument("--steps", type=cli.positive_int, metavar="N", help="train N steps instead of the protocol's")
    group.add_argument(
        "--augment",
        metavar="OPS",
        help="operations of the augmentation joined by _, such as crop_flip, or none (default: the file's, else all)",
    )
    run = cli.common_run_options(parser, output=False)
    run.add_argument("-o", "--output", type=Path, metavar="OUT.json", help="write the JSON object there too")
    return parser


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
        return _evaluate(file, bytes_total, arguments, folder, deadline)


def _evaluate(
    file: gsdata.GsdFile, bytes_total: int, arguments: argparse.Namespace, folder: Path, deadline: cli.Deadline
) -> int:
    from gsdata_tools import sources
    from gsdata_tools.baselines import Pool
    from gsdata_tools.evaluation import Evaluation

    if file.label_kind == "none" or len(file) == 0:
        raise UsageError(f"{file.path}: it has no {'labels' if len(file) else 'images'} to train on")
    plan = _plan(file, arguments)
    test = sources.load(
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        size=arguments.size,
        balanced_seed=arguments.seed if arguments.limit else None,
    )
    _check_match(file, test)
    pool = None
    if plan.baselines:
        real = sources.load(arguments.data, split="train", size=arguments.size)
        if real.split == test.split:
            raise UsageError(f"--baselines draw from split {real.split}, so another --split must be tested on")
        _check_match(file, real)
        pool = Pool.of(real.images, real.labels, len(real.classes), arguments.seed)
    options = _options(file, arguments, plan, test)
    checkpoint = cli.Checkpoint(folder, options, resume=arguments.resume)
    evaluation = Evaluation(file, bytes_total, test, pool, plan, checkpoint, deadline, arguments.quiet)
    if arguments.protocol == "gsdd" and not arguments.quiet:
        cli.note(evaluation.cost())
    try:
        result = evaluation.run()
    except KeyboardInterrupt:
        if arguments.output is not None or not checkpoint.names():
            raise
        cli.note(f"stopped; finished runs are in {folder}: the same command with --resume continues")
        return 130
    if arguments.output is not None:
        text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        cli.atomic_write(arguments.output, text.encode())
    if evaluation.complete:
        checkpoint.delete()
    else:
        cli.note(
            f"--time-limit ended it early; finished runs are in {folder}: the same command with --resume continues"
        )
    if arguments.json:
        cli.write_json(result)
    else:
        _show(result)
    return 0


def _plan(file: gsdata.GsdFile, arguments: argparse.Namespace) -> Plan:
    from gsdata_tools import networks
    from gsdata_tools.baselines import check_names
    from gsdata_tools.evaluation import Plan, normalization_of
    from gsdata_tools.train import choose_protocol

    model = networks.canonical_name(arguments.model or file.recipe.model or networks.DEFAULT_MODEL)
    networks.build(model, file.channels, file.class_count, file.size, seed=0)  # refused now rather than after loading
    augment = file.recipe.augment if arguments.augment is None else arguments.augment
    return Plan(
        protocol=choose_protocol(arguments.protocol, augment=augment, steps=arguments.steps),
        model=model,
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
        baselines=check_names(arguments.baselines, file.channels),
        normalization=normalization_of(file),
        device=cli.resolve_device(arguments.device),
    )


def _options(file: gsdata.GsdFile, arguments: argparse.Namespace, plan: Plan, test: ImageSet) -> dict[str, Any]:
    """What decides the results of single runs; more seeds or baselines may be asked for when resuming."""
    return {
        "file": file.sha256,
        "data": arguments.data,
        "split": test.split,
        "test": test.digest,
        "seed": arguments.seed,
        "protocol": plan.protocol.name,
        "steps": plan.protocol.steps,
        "augment": plan.protocol.augment,
        "model": plan.model,
        "device": plan.device,
    }


def _check_paths(arguments: argparse.Namespace) -> Path:
    """Refuse before any work what could not be written after it; returns the folder of the checkpoint."""
    if not arguments.file.is_file():
        raise UsageError(f"{arguments.file}: there is no such file")
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


def _check_match(file: gsdata.GsdFile, real: ImageSet) -> None:
    """Refuse real images whose classes, channels or size are not the file's."""
    where = f"{real.name} {real.split}"
    height, width, channels = real.images.shape[1:]
    if channels != file.channels:
        raise UsageError(f"{where} has {channels} channels, {file.path} has {file.channels}: test on other --data")
    if (height, width) != file.size:
        raise UsageError(
            f"{where} has images of {height}x{width} pixels, {file.path} of {file.size[0]}x{file.size[1]}: "
            f"give --size {file.size[0]}x{file.size[1]}, or other --data"
        )
    if not real.classes or int(real.labels.min()) < 0:
        raise UsageError(f"{where} has images without labels: there is nothing to test against")
    if len(real.classes) != file.class_count:
        raise UsageError(
            f"{where} has {len(real.classes)} classes, {file.path} has {file.class_count}: not the same data"
        )
    for index, (theirs, ours) in enumerate(zip(real.classes, file.classes, strict=False)):
        if theirs != ours:
            raise UsageError(f"class {index} is {theirs!r} in {where}, but {ours!r} in {file.path}: not the same data")


def _show(result: dict[str, Any]) -> None:
    """The result as a small table on standard output."""
    from gsdata_tools.printing import printable, show

    test, protocol = result["test"], result["protocol"]
    title = (
        f"{printable(result['file'])}: {result['model']}, protocol {protocol['name']} ({result['steps']:,} steps of "
        f"{result['batch_size']}), tested on {test['images']:,} images of {printable(test['data'])} {test['split']}"
    )
    lines = [
        title,
        "",
        f"{'trained on':24}{'bytes':>12}{'images':>9}  accuracy",
        _row("this file", result["bytes_total"], result["images"], result["accuracy"]),
    ]
    for name, found in result["baselines"].items():
        setting = next((f"{key} {found[key]}" for key in ("quality", "gaussians") if found.get(key) is not None), "")
        lines.append(_row(f"{name} {setting}".strip(), found["bytes_total"], found["images"], found["accuracy"]))
    several = (
        f": mean ± sample standard deviation of {result['seeds']} seeds" if result["seeds"] > 1 else " of one seed"
    )
    lines += ["", f"accuracy in per cent{several}"]
    if not result["complete"]:
        lines.append("not complete: the time limit came first")
    show("\n".join(lines))


def _row(name: str, weight: int, images: int, accuracy: dict[str, Any]) -> str:
    if accuracy["mean"] is None:
        shown = "not measured"
    else:
        spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.2f}"
        shown = f"{accuracy['mean']:.2f}{spread}"
    return f"{name:24}{weight:>12,}{images:>9,}  {shown}"


if __name__ == "__main__":
    raise SystemExit(main())
