"""Feeding a training loop: ``GaussianLoader`` and ``GaussianDataset`` beside JPEG files, WebDataset and ``.npy``.

The same real images, at three sizes: CIFAR-10 at 32 x 32 as a file of about 1.2 MB (the bytes of 100 float32 images), Imagenette at
128 x 128, and the latter at 224 x 224: the same ``.gsd`` rendered there, and JPEG and ``.npy`` of the images scaled up. JPEG has quality
90. All of it is written to a temporary folder (or ``--sets FOLDER``, where it is found again) and never committed.

Each contender runs in a process of its own, torch imported and kernels compiled before; two threads or two worker processes make its
images. Measured are: seconds until the first batch, gsdata's or PIL's import included; images per second in a loop that only takes batches;
memory after that beyond a process that imported torch, workers included; bytes on disk; and with ``--training``, in a loop that trains a
network, the share of its time in which it waits for a batch, and by how much it is slower than with one batch used again and again.
Rounds interleave the contenders, so that a busy moment hits all of them; figures are medians, ratios are of medians. The same per second of
processors' time does not count other work on the machine.

``--device cuda`` measures on a GPU. Needs GSDATA_DATA with CIFAR-10 and Imagenette.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gsdata
from drawing import QUICK, Curve, Panel, draw
from environment import hardware, versions
from gsdata_tools import encode, sources
from gsdata_tools.usage import UsageError
from loader_contenders import CONTENDERS, WORKERS

QUALITY = 90
OWN, JPEG, WEB = "GaussianLoader", f"JPEG folder, DataLoader, {WORKERS} workers", f"WebDataset JPEG, {WORKERS} workers"


@dataclass(frozen=True)
class Workload:
    """Which images, how they are encoded, and how they are read.

    Attributes:
        data, split, images: the first images of a data set.
        gaussians, steps: options of gsd-encode.
        size: (S, S) in pixels of the batches.
        batch: images of a batch.
        repeat: how often an epoch goes over the images, so that it is no matter of its ends.
    """

    data: str
    split: str
    images: int
    gaussians: int
    steps: int
    size: int
    batch: int
    repeat: int = 1

    @property
    def folder(self) -> str:
        """Where its files are."""
        return f"{self.data}-{self.images}-{self.gaussians}-{self.steps}"


FULL = (
    Workload("cifar10", "train", 7000, 42, 400, 32, 128),
    Workload("imagenette-128", "val", 256, 400, 300, 128, 64, repeat=8),
    Workload("imagenette-128", "val", 256, 400, 300, 224, 64, repeat=8),
)
SHORT = (
    Workload("cifar10", "train", 512, 42, 60, 32, 128, repeat=8),
    Workload("imagenette-128", "val", 32, 200, 40, 128, 64, repeat=32),
    Workload("imagenette-128", "val", 32, 200, 40, 224, 64, repeat=32),
)


def prepare(load: Workload, folder: Path) -> dict[str, Any]:
    """Write the images in every form that is not there yet; bytes on disk and PSNR of each form."""
    folder.mkdir(parents=True, exist_ok=True)
    data = sources.load(load.data, split=load.split, limit=load.images, size=load.size)
    gsd = folder / "images.gsd"
    if not gsd.exists():
        wanted = ["--data", load.data, "--split", load.split, "--limit", load.images, "--steps", load.steps]
        arguments = [*wanted, "--gaussians", load.gaussians, "-o", gsd, "--force", "--quiet"]
        if (code := encode.main(list(map(str, arguments)))) != 0:
            raise SystemExit(code)
    pixels = data.images.transpose(0, 3, 1, 2)
    np.save(folder / "labels.npy", data.labels)
    np.save(folder / f"pixels-{load.size}.npy", pixels)
    names = [f"{number:06}" for number in range(load.images)]
    files = folder / f"jpeg-{load.size}"
    for label in np.unique(data.labels):
        (files / f"{label:04}").mkdir(parents=True, exist_ok=True)
    encoded = []
    for name, image, label in zip(names, data.images, data.labels, strict=True):
        Image.fromarray(image).save(files / f"{label:04}" / f"{name}.jpg", quality=QUALITY)
        encoded.append((files / f"{label:04}" / f"{name}.jpg").read_bytes())
    shards = folder / f"wds-{load.size}"
    shards.mkdir(exist_ok=True)
    for shard in range(WORKERS):
        with tarfile.open(shards / f"{shard:06}.tar", "w") as tar:
            for number in range(shard, load.images, WORKERS):
                for suffix, content in (("jpg", encoded[number]), ("cls", str(data.labels[number]).encode())):
                    member = tarfile.TarInfo(f"{names[number]}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    decoded = np.stack([np.array(Image.open(BytesIO(each)).convert("RGB")) for each in encoded])
    rendered = gsdata.render(gsdata.open(gsd).gaussians(), load.size, dtype=np.uint8).transpose(0, 2, 3, 1)
    jpegs = list(files.rglob("*.jpg"))
    return {
        "digest": data.digest,
        "psnr": {"gsd": psnr(rendered, data.images), "jpeg": psnr(decoded, data.images)},
        "bytes_on_disk": {
            "gsd": gsd.stat().st_size,
            "jpeg": sum(path.stat().st_size for path in jpegs),
            "jpeg in whole blocks of the file system": sum(path.stat().st_blocks * 512 for path in jpegs),
            "WebDataset": sum(path.stat().st_size for path in shards.iterdir()),
            "npy": (folder / f"pixels-{load.size}.npy").stat().st_size,
        },
    }


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean over images of the PSNR of uint8 images, in dB."""
    squares = (found.astype(np.float64) - expected).reshape(len(found), -1) ** 2
    return float(np.mean(10 * np.log10(255**2 / np.maximum(squares.mean(1), 1e-9))))


def run(load: Workload, folder: Path, contender: str, given: argparse.Namespace) -> dict[str, float]:
    """One contender once, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("loader_contenders.py")), contender]
    command += ["--set", str(folder), "--device", given.device, "--seconds", str(given.seconds)]
    for name in ("size", "batch", "images", "repeat"):
        command += [f"--{name}", str(getattr(load, name))]
    command += ["--training"] if given.training else []
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GSDATA_NUM_THREADS": str(WORKERS)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{contender} at {load.size} px failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(load: Workload, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All contenders in interleaved rounds."""
    found = {"workload": asdict(load), **prepare(load, folder)}
    run(load, folder, OWN, given)  # compiles what is not cached
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(given.rounds):
        for name, measured in runs.items():
            measured.append(run(load, folder, name, given))
            print(f"{load.size} px, {name}: {measured[-1]['images_per_second']:.0f} images/s", file=sys.stderr)
    medians = {
        name: {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        for name, measured in runs.items()
    }
    ratios = {
        key: {f"{OWN} over {name}": medians[OWN][key] / medians[name][key] for name in CONTENDERS if name != OWN}
        for key in ("images_per_second", "images_per_processor_second")
    }
    return {**found, "medians": medians, "ratios": ratios, "runs": runs}


def targets(measurements: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """What was aimed at, and what was found."""
    small = next(found for found in measurements if found["workload"]["size"] == 32)
    own, ratios = small["medians"][OWN], small["ratios"]["images_per_second"]
    aims = {
        "32 px: images/s over the JPEG folder": (ratios[f"{OWN} over {JPEG}"], ">=", 3.0),
        "32 px: images/s over WebDataset JPEG": (ratios[f"{OWN} over {WEB}"], ">=", 2.0),
        "32 px: seconds to the first batch": (own["first_batch_seconds"], "<=", 0.5),
    }
    if device != "cpu" and "waiting" in own:
        aims["32 px: share of a ResNet-18 step spent waiting"] = (own["slower_than_same_batch"], "<", 0.02)
    met = {">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b, "<": lambda a, b: a < b}
    return {name: {"found": a, "target": f"{sign} {b}", "met": met[sign](a, b)} for name, (a, sign, b) in aims.items()}


def plot(result: dict[str, Any], path: Path) -> None:
    """Speed and first batch by size, in processors' time, which other work on the machine changes least."""
    sizes = [found["workload"]["size"] for found in result["measurements"]]
    panels = [
        Panel(
            title,
            "pixels a side",
            title,
            [
                Curve(name, sizes, [found["medians"][name][key] for found in result["measurements"]])
                for name in CONTENDERS
            ],
            sizes,
            ylog=True,
        )
        for title, key in (
            ("images per second of processors' time", "images_per_processor_second"),
            ("processors' seconds to the first batch", "first_batch_processor_seconds"),
        )
    ]
    draw(path, QUICK if result["quick"] else "Feeding a training loop", panels)


def main() -> int:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few images, one round, under 3 minutes; not a result to quote"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--rounds", type=int, help="how often each contender is measured (default: 3; 1 with --quick)")
    parser.add_argument("--seconds", type=float, help="of each measurement (default: 3; 1 with --quick)")
    parser.add_argument(
        "--training", action="store_true", help="also train a network: ConvNet-D3, or ResNet-18 on a GPU"
    )
    parser.add_argument("--sets", type=Path, help="keep the sets in this folder, and take those that are there")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/loader.json, or loader_quick.json")
    given = parser.parse_args()
    name = "loader_quick.json" if given.quick else "loader.json"
    output = given.output or Path(__file__).parent / "results" / name
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.seconds = given.seconds or (1.0 if given.quick else 3.0)
    options = [f"--{name}" for name in ("quick", "training") if getattr(given, name)]
    options += [f"--{name} {getattr(given, name)}" for name in ("device", "rounds", "seconds")]
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/loader.py", *options]),
        "quick": given.quick,
        "device": given.device,
        "jpeg_quality": QUALITY,
        "versions": versions(),
        "hardware": hardware(),
        "load_average_before": os.getloadavg(),
    }
    measurements: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for load in SHORT if given.quick else FULL:
            folder = (given.sets or Path(temporary)) / load.folder
            try:
                measurements.append(measure(load, folder, given))
            except UsageError as error:
                print(error, file=sys.stderr)
                return 2
            # After every size: what is measured is not lost where the run is stopped.
            result |= {"load_average_after": os.getloadavg(), "targets": targets(measurements, given.device)}
            result |= {"measurements": measurements}
            output.write_text(json.dumps(result, indent=2) + "\n")
    plot(result, output)
    for found in measurements:
        print(f"{found['workload']['size']} px")
        for name, values in found["medians"].items():
            waiting = f", waiting {values['waiting']:.1%} of a training loop" if "waiting" in values else ""
            print(
                f"  {name:42} {values['images_per_second']:8.0f} images/s, {values['images_per_processor_second']:8.0f} of processors' "
                f"time, first batch {values['first_batch_seconds']:.2f} s, {values['memory_bytes'] / 1e6:4.0f} MB{waiting}"
            )
        print("  bytes on disk: " + ", ".join(f"{key} {value:,}" for key, value in found["bytes_on_disk"].items()))
    for name, target in result["targets"].items():
        print(f"{name}: {target['found']:.3g} (target {target['target']}: {'met' if target['met'] else 'MISSED'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
