"""The run of ``gsd-distill``: steps with checkpoints until the iterations or the time are used up, then the closed file."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gsdata
from gsdata.atomic import write_atomically
from gsdata.errors import BudgetError
from gsdata_tools import cli, ranks
from gsdata_tools.distillation import Distillation
from gsdata_tools.long_runs import computed_by, set_threads, stop_requests
from gsdata_tools.monitors import draw
from gsdata_tools.preview import preview_file

LOWEST_FILL = 0.98
"""The closed file weighs at least this part of its budget."""
SAVE_SECONDS = 30.0
_GO_ON, _LATE, _STOP = range(3)


def distill(arguments: argparse.Namespace) -> int:
    """Run a verb of ``gsd-distill`` with parsed arguments; returns the exit code.

    Raises:
        UsageError, BudgetError: a request that cannot be met; raised before anything is computed.
    """
    begun = time.monotonic()
    deadline = cli.Deadline(arguments.time_limit)
    companions = (".png", ".json", ".monitors.png")
    output = cli.check_output(arguments.output, arguments.force, arguments.resume, companions=companions)
    ranks.join(cli.resolve_device(arguments.device))
    run = Distillation(arguments)
    ranks.wait()  # until every process has looked at what is there, before the first one changes it
    identity = run.options | {"source": run.data.digest, "budget": run.budget, "method": arguments.method}
    checkpoint = ranks.checkpoint(output.ckpt, identity, resume=output.resuming)
    set_threads(checkpoint, ["state"])
    if not arguments.quiet:
        planned = run.plan
        cli.note(
            f"{run.budget:,} bytes: {run.classes} classes x {planned.images_per_class} images x about "
            f"{planned.gaussians // len(run.labels)} Gaussians; {arguments.iterations:,} iterations"
        )
    run.start(checkpoint)
    if run.iteration > arguments.iterations:
        raise cli.UsageError(
            f"{output.ckpt} holds {run.iteration} iterations, more than --iterations {arguments.iterations}"
        )
    _iterate(run, arguments, deadline, checkpoint)
    if ranks.first():
        _finish(run, arguments, output, begun)
        checkpoint.delete()
    ranks.wait()
    return 0


def _finish(run: Distillation, arguments: argparse.Namespace, output: cli.Output, begun: float) -> None:
    """Close the file, and write what comes beside it.

    Raises:
        BudgetError: the smallest possible set is larger than the budget.
    """
    data = close(run)
    write_atomically(output.gsd, data)
    report = _report(run, data, time.monotonic() - begun)
    write_atomically(output.json, (json.dumps(report | {"log": run.log}, indent=1) + "\n").encode())
    preview_file(gsdata.open(data), output.png)
    drawing = output.gsd.with_suffix(".monitors.png")
    drawing.unlink(missing_ok=True)
    if len(run.monitors) > 1 and not draw(run.monitors, drawing) and not arguments.quiet:
        cli.note(f"{drawing.name} is not drawn: matplotlib is not installed; the counts are in {output.json.name}")
    if not arguments.quiet:
        cli.note(f"{output.gsd}: {len(data):,} bytes, {100 * len(data) / run.budget:.2f} % of the budget")
    if arguments.json:
        cli.write_json(report)


def _iterate(
    run: Distillation, arguments: argparse.Namespace, deadline: cli.Deadline, checkpoint: cli.Checkpoint
) -> None:
    """Make steps until enough are made, the time is up, or the user stops them."""
    saved = time.monotonic()
    label = f"{arguments.method} step"
    with stop_requests() as stop, cli.Progress(arguments.iterations, label, arguments.quiet) as progress:
        slowest = 0.0

        def wanted() -> int:
            late = deadline.remaining() <= 2 * slowest
            # All processes end after the same step, whichever of them is told to.
            return ranks.highest(_STOP if stop.is_set() else _LATE if late else _GO_ON)

        while wanted() == _GO_ON and run.iteration < arguments.iterations:
            before = time.monotonic()
            losses = run.step()
            slowest = max(slowest, time.monotonic() - before)
            progress.update(run.iteration, **losses)
            if time.monotonic() - saved > SAVE_SECONDS:
                run.save(checkpoint)
                saved = time.monotonic()
        run.save(checkpoint)
        if wanted() == _STOP:  # now or while that was saved
            raise KeyboardInterrupt


def close(run: Distillation) -> bytes:
    """The file, brought to 98 to 100 % of the budget.

    Raises:
        BudgetError: the smallest possible set is larger than the budget.
    """
    run.fill(LOWEST_FILL, 1.0)
    data = run.file()
    if len(data) > run.budget:
        raise BudgetError(
            f"one Gaussian per image already takes {len(data)} of {run.budget} bytes; "
            "ask for fewer --images-per-class or for more bytes"
        )
    return data


def _report(run: Distillation, data: bytes, seconds: float) -> dict[str, Any]:
    file = gsdata.open(data)
    return {
        "schema": "gsd-distill/1",
        "method": run.arguments.method,
        "bytes_total": len(data),
        "budget": run.budget,
        "fill": len(data) / run.budget,
        "images": file.images,
        "gaussians": file.gaussian_count,
        "bits_per_gaussian": 8 * len(data) / max(file.gaussian_count, 1),
        "iterations": run.iteration,
        "seconds": round(seconds, 3),
        **computed_by(),
        "sha256": file.sha256,
        "options": run.options,
        "monitors": run.monitors,
        "last": run.log[-1] if run.log else {},
    }
