"""What ``gsd-eval`` says at its end: one JSON object, or a table."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

import torch

from gsdata_tools import baselines, cli
from gsdata_tools.evaluation import Case, Evaluation, summary
from gsdata_tools.printing import printable

SCHEMA = "gsd-eval/1"


def report(evaluation: Evaluation) -> dict[str, Any]:
    """The finished runs, as the JSON object that ``gsd-eval`` prints; the first network at the first size is also at the top."""
    plan, file = evaluation.plan, evaluation.file
    results = [_result(evaluation, case) for case in plan.cases]
    first, protocol = results[0], plan.cases[0].protocol
    held_out = 0 if evaluation.real.pool is None else len(evaluation.real.pool.validation)
    return {
        "schema": SCHEMA,
        "file": str(file.path),
        "sha256": file.sha256,
        "bytes_total": evaluation.bytes_total,
        "images": len(file),
        "labels": plan.labels,
        **{key: first[key] for key in ("model", "parameters", "size", "protocol")},
        "steps": evaluation.steps,
        "batch_size": protocol.batch_size,
        "epochs": round(protocol.passes(evaluation.steps, len(file)), 2),
        "seeds": len(plan.seeds),
        "seed": plan.seeds[0],
        "checkpoints": plan.checkpoints,
        "normalization": plan.normalization.describe(),
        **{key: first[key] for key in ("test", "accuracy", "chosen", "baselines") if key in first},
        "results": results,
        "complete": evaluation.complete,
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "versions": cli.record_versions(),
        "note": "Accuracies are per cent of the test images; std is the sample standard deviation over seeds (n - 1). "
        f"A baseline's setting is chosen by trainings of {evaluation.search_steps} steps, one seed, tested on "
        f"{held_out} held-out training images; every final run draws new training images."
        + (
            f" Of {plan.checkpoints} states of each training, that which recognises most held-out images is tested."
            if plan.checkpoints > 1
            else ""
        ),
    }


def _result(evaluation: Evaluation, case: Case) -> dict[str, Any]:
    test, runs = evaluation.real.tests[case.size], evaluation.runs(case, "file")
    return {
        "model": case.model,
        "parameters": case.parameters,
        "size": list(case.size),
        "protocol": asdict(case.protocol),
        "test": {"data": test.name, "split": test.split, "images": len(test.labels), "digest": test.digest},
        "accuracy": summary([run["accuracy"] for run in runs]),
        **_chosen(evaluation, runs),
        "baselines": {name: _baseline(evaluation, case, name) for name in evaluation.plan.baselines},
    }


def _chosen(evaluation: Evaluation, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """After how many steps each tested network was taken, where held-out images choose."""
    if evaluation.plan.checkpoints == 1:
        return {}
    return {"chosen": {key: [run[key] for run in runs] for key in ("step", "validation_accuracy")}}


def _baseline(evaluation: Evaluation, case: Case, name: str) -> dict[str, Any]:
    runs, label = evaluation.runs(case, name), baselines.setting_name(name)
    searched = [{label: entry.pop("setting"), **entry} for entry in evaluation.searched(case, name)]
    return {
        "bytes_total": max((run["bytes_total"] for run in runs), default=0),
        "images": round(statistics.fmean(run["images"] for run in runs)) if runs else 0,
        "accuracy": summary([run["accuracy"] for run in runs]),
        **_chosen(evaluation, runs),
        label: evaluation.best(case, name),
        "per_run": {key: [run[key] for run in runs] for key in ("bytes_total", "images")},
        "searched": searched,
        "note": baselines.NOTES[name],
    }


def table(result: dict[str, Any]) -> str:
    """What ``report`` returned, for reading."""
    test, protocol = result["test"], result["protocol"]
    several = len(result["results"]) > 1
    subject = "" if several else f"{result['model']}, "
    training = f"{subject}protocol {protocol['name']} ({result['steps']:,} steps of {result['batch_size']})"
    tested = f"tested on {test['images']:,} images of {printable(test['data'])} {test['split']}"
    lines = [f"{printable(result['file'])}: {training}, {tested}"]
    for case in result["results"]:
        title = f"{case['model']} at {case['size'][0]}x{case['size'][1]}" if several else "trained on"
        lines += ["", f"{title:24}{'bytes':>12}{'images':>9}  accuracy"]
        lines.append(_row("this file", result["bytes_total"], result["images"], case["accuracy"]))
        for name, found in case["baselines"].items():
            setting = next(
                (f"{key} {found[key]}" for key in ("quality", "gaussians") if found.get(key) is not None), ""
            )
            lines.append(_row(f"{name} {setting}".strip(), found["bytes_total"], found["images"], found["accuracy"]))
    spread = f": mean ± sample standard deviation of {result['seeds']} seeds" if result["seeds"] > 1 else " of one seed"
    lines += ["", f"accuracy in per cent{spread}"]
    if not result["complete"]:
        lines.append("not complete: the time limit came first")
    return "\n".join(lines)


def _row(name: str, weight: int, images: int, accuracy: dict[str, Any]) -> str:
    if accuracy["mean"] is None:
        shown = "not measured"
    else:
        spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.2f}"
        shown = f"{accuracy['mean']:.2f}{spread}"
    return f"{name:24}{weight:>12,}{images:>9,}  {shown}"
