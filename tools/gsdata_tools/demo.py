"""``make demo``: the main job, end to end, on real images that come with an installed package.

Distils 4,000 digits to an IPC 1 file, inspects it, draws it, and trains from it, beside baselines of the same bytes. Every step is one
of the ``gsd-*`` commands, shown as a user would type it.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gsdata_tools.running import run
from gsdata_tools.usage import UsageError

_MODULES = {
    "gsd-distill": "gsdata_tools.distill",
    "gsd-eval": "gsdata_tools.evaluate",
    "gsd-inspect": "gsdata_tools.inspecting",
}
# Tuned on 2 cores so that the whole takes less than five minutes; the time limit is for slower machines.
_ITERATIONS = 120
_TIME_LIMIT = "2m"
_TRAIN_STEPS = 60


def steps(folder: Path) -> list[tuple[str, list[str]]]:
    """What the demo does: a sentence and a command line each."""
    file, sheet, log = (str(folder / name) for name in ("digits.gsd", "digits-sheet.png", "digits-eval.json"))
    return [
        (
            "Distil 4,000 real digits to a file of 31,360 bytes, the float32 size of one 28x28 image per class.",
            [
                *("gsd-distill", "dm", "--data", "mnist-5k", "--ipc", "1", "--images-per-class", "60"),
                # Mirrored digits are no digits, so the augmentation is the usual one without flips.
                *("--augment", "color_crop_cutout_scale_rotate", "--choose", "kmeans", "--fit-steps", "300"),
                *("--pretrain", "1", "60", "--classify", "0"),
                *("--iterations", str(_ITERATIONS), "--time-limit", _TIME_LIMIT, "-o", file, "--force"),
            ],
        ),
        ("See where its bytes went.", ["gsd-inspect", file]),
        ("Check every byte, and draw the images.", ["gsd-inspect", file, "--verify", "--preview", sheet, "--force"]),
        (
            "Train a network from the file, and others from random real digits of the same bytes; test all on 1,000 unseen digits.",
            [
                *("gsd-eval", file, "--data", "mnist-5k", "--seeds", "1", "--steps", str(_TRAIN_STEPS)),
                *("--baselines", "random-gsd,webp,jpeg", "-o", log, "--force"),
            ],
        ),
    ]


def perform(plan: Sequence[tuple[str, list[str]]]) -> int:
    """Run each command as if it had been typed; stops at the first that fails and returns its exit code."""
    for number, (purpose, words) in enumerate(plan, start=1):
        print(f"\n[{number}/{len(plan)}] {purpose}\n$ {shlex.join(words)}", flush=True)
        command: Callable[[list[str]], int] = importlib.import_module(_MODULES[words[0]]).main
        own, sys.argv = sys.argv, [words[0]]  # messages of the command begin with its name
        try:
            code = command(words[1:])
        finally:
            sys.argv = own
        if code:
            return code
    return 0


def _activation() -> str:
    """How to put the commands on the search path, where an environment has to be activated for that."""
    script = Path(sys.prefix) / "bin" / "activate"
    if sys.prefix == sys.base_prefix or not script.exists():
        return ""
    here = Path.cwd()
    return f", after `. {script.relative_to(here) if script.is_relative_to(here) else script}`"


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gsdata_tools.demo", description=__doc__.partition("\n")[0].strip())
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"), help="where the files go (default: demo)")
    folder: Path = parser.parse_args(arguments).folder
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; the demo needs a folder of that name")
    folder.mkdir(exist_ok=True)
    start = time.monotonic()
    if code := perform(steps(folder)):
        return code
    print(
        f"""
Done in {time.monotonic() - start:.0f} s. The files are in {folder.resolve()}:
  digits.gsd         the distilled set, labels and training recipe included
  digits-sheet.png   its images, a class per row
  digits-eval.json   the accuracies, with everything that decided them
  digits.png, .json  preview and log of the distillation
This was short: one seed, and 60 steps of training a network. Accuracies that are to be compared need `--seeds 3` and the default
of 300 steps.
Try next{_activation()}:
  gsd-distill dm --data mnist-5k --ipc 1 --augment color_crop_cutout_scale_rotate --choose kmeans --time-limit 10m -o longer.gsd
  gsd-encode --data FOLDER_OF_IMAGES --size 64 --gaussians 200 -o mine.gsd
  gsd-inspect mine.gsd --preview mine-sheet.png
README.md says how to train from a .gsd in Python."""
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    return run(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
