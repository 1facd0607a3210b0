"""One way to feed a training loop, measured in a process of its own; ``loader.py`` starts it.

Every contender yields shuffled batches of (float32 (n, 3, H, W), normalised; int64 (n,)). Those that decode JPEG hand uint8 from
their workers to the main process, which converts whole batches: the fastest of the usual ways.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORKERS = 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
Open = Callable[[argparse.Namespace], Callable[[int], Batches]]


def finished(images: torch.Tensor, labels: torch.Tensor, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A uint8 batch as every contender yields it."""
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
    pixels = images.to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)
    return pixels, labels.to(device, non_blocking=True)


def loader(given: argparse.Namespace) -> Callable[[int], Batches]:
    """``GaussianLoader``; the recipe of an encoded file has the mean and std of its images."""
    from gsdata import GaussianLoader

    indices = None if given.repeat == 1 else np.tile(np.arange(given.images), given.repeat)
    found = GaussianLoader(
        given.set / "images.gsd",
        given.batch,
        size=given.size,
        normalize=True,
        shuffle=True,
        indices=indices,
        device=given.device,
    )
    return lambda epoch: found


def dataset(workers: int) -> Open:
    """``GaussianDataset`` through ``DataLoader``."""

    def start(given: argparse.Namespace) -> Callable[[int], Batches]:
        from torch.utils.data import DataLoader, Subset

        from gsdata import GaussianDataset

        data = GaussianDataset(given.set / "images.gsd", size=given.size, normalize=True)
        repeated = Subset(data, list(range(given.images)) * given.repeat)
        found = DataLoader(repeated, given.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        return lambda epoch: ((x.to(given.device), y.to(given.device)) for x, y in found)

    return start


def pixels_of(data: bytes) -> torch.Tensor:
    """A JPEG as uint8 (3, H, W)."""
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


class JpegFolder(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Class folders of JPEG files, as torchvision's ``ImageFolder`` reads them."""

    def __init__(self, folder: Path, repeat: int) -> None:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        self.items = [(path, k) for k, entry in enumerate(classes) for path in sorted(entry.iterdir())] * repeat

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.items[index]
        return pixels_of(path.read_bytes()), label


def jpeg_folder(given: argparse.Namespace) -> Callable[[int], Batches]:
    """JPEG files through ``DataLoader``."""
    from torch.utils.data import DataLoader

    found = DataLoader(
        JpegFolder(given.set / f"jpeg-{given.size}", given.repeat),
        given.batch,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        pin_memory=given.device != "cpu",
    )
    return lambda epoch: (finished(*batch, given.device) for batch in found)


def webdataset(given: argparse.Namespace) -> Callable[[int], Batches]:
    """JPEG in tar shards, one for each worker, shuffled in a buffer of 1,000, batched in the workers."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    shards = sorted(map(str, (given.set / f"wds-{given.size}").glob("*.tar")))
    stages = wds.WebDataset(shards * given.repeat, shardshuffle=len(shards), empty_check=False).shuffle(1000)
    stages = stages.map(lambda sample: (pixels_of(sample["jpg"]), int(sample["cls"])))
    found = DataLoader(
        stages.batched(given.batch),
        batch_size=None,
        num_workers=WORKERS,
        persistent_workers=True,
        pin_memory=given.device != "cpu",
    )
    return lambda epoch: (finished(x, torch.as_tensor(y), given.device) for x, y in found)


def npy(given: argparse.Namespace) -> Callable[[int], Batches]:
    """A memory-mapped uint8 array, indexed by whole batches in the main process."""
    pixels = np.load(given.set / f"pixels-{given.size}.npy", mmap_mode="r")
    labels = np.load(given.set / "labels.npy")

    def epoch_of(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = np.random.default_rng([0, epoch]).permutation(len(pixels) * given.repeat) % len(pixels)
        for first in range(0, len(order), given.batch):
            rows = order[first : first + given.batch]
            yield finished(torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows]), given.device)

    return epoch_of


CONTENDERS: dict[str, Open] = {
    "GaussianLoader": loader,
    "GaussianDataset, DataLoader": dataset(0),
    f"GaussianDataset, DataLoader, {WORKERS} workers": dataset(WORKERS),
    f"JPEG folder, DataLoader, {WORKERS} workers": jpeg_folder,
    f"WebDataset JPEG, {WORKERS} workers": webdataset,
    ".npy, whole batches": npy,
}


def workers() -> list[str]:
    """Process ids of children."""
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def resident() -> int:
    """Memory of this process and its workers, what they share counted once (Linux: proportional set sizes)."""
    total = 0
    for pid in ["self", *workers()]:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    return total


def processor_seconds() -> float:
    """Time that this process and its workers have computed for: other work on the machine does not count."""
    ticks = 0
    for pid in workers():
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def endless(epochs: Callable[[int], Batches]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Epoch after epoch."""
    return itertools.chain.from_iterable(epochs(epoch) for epoch in itertools.count())


def loop(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]], use: Callable[..., Any], seconds: float
) -> dict[str, float]:
    """A loop that runs for about ``seconds``: images per second, the same per second of processors' time, share of waiting."""
    images, waited, start, computed = 0, 0.0, time.perf_counter(), processor_seconds()
    while (now := time.perf_counter()) - start < seconds:
        pixels, labels = next(batches)
        waited += time.perf_counter() - now
        use(pixels, labels)
        images += len(pixels)
    if pixels.device.type == "cuda":
        torch.cuda.synchronize()
    took = time.perf_counter() - start
    rates = {
        "images_per_second": images / took,
        "images_per_processor_second": images / (processor_seconds() - computed),
    }
    return {**rates, "waiting": waited / took}


def training_step(given: argparse.Namespace) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of SGD on the network that papers use at this size: ConvNet-D3 on the CPU, ResNet-18 on a GPU."""
    from gsdata_tools.models import build

    name = "ConvNet-D3" if given.device == "cpu" else "ResNet18"
    network = build(name, 3, 10, (given.size, given.size), seed=0, device=given.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        loss = torch.nn.functional.cross_entropy(network(pixels), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure one contender once and print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("size", "batch", "images", "repeat"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    if given.device != "cpu":
        torch.zeros(1, device=given.device)  # the device's own start is nobody's
    # Two threads or two worker processes make images; the main process is one thread more for every contender.
    torch.set_num_threads(1)
    before, start, computed = resident(), time.perf_counter(), processor_seconds()
    batches = endless(CONTENDERS[given.contender](given))
    pixels, labels = next(batches)
    float(pixels[0, 0, 0, 0])
    found: dict[str, Any] = {"first_batch_seconds": time.perf_counter() - start}
    found["first_batch_processor_seconds"] = processor_seconds() - computed
    if pixels.dtype != torch.float32 or tuple(pixels.shape) != (given.batch, 3, given.size, given.size):
        raise SystemExit(f"not a batch as wanted: {pixels.dtype} {tuple(pixels.shape)}")
    for _ in range(4):  # what was made ahead while this process looked at the clock
        next(batches)
    found |= loop(batches, lambda pixels, labels: float(pixels[0, 0, 0, 0]), given.seconds)
    del found["waiting"]  # this loop does nothing else
    found["memory_bytes"] = resident() - before
    if given.training:
        torch.set_num_threads(os.cpu_count() or 1)
        step = training_step(given)
        step(pixels, labels)
        # The loop that waits for nothing is measured before and after.
        same = itertools.repeat((pixels, labels))
        alone, trained, again = (loop(each, step, given.seconds) for each in (same, batches, same))
        usual = (alone["images_per_second"] + again["images_per_second"]) / 2
        found |= {"training_same_batch": usual, "training": trained["images_per_second"]}
        found |= {"waiting": trained["waiting"], "slower_than_same_batch": 1 - trained["images_per_second"] / usual}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
