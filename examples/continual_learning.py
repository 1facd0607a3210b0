"""Continual learning with a memory that is one .gsd file under a byte budget.

Five tasks of two digits each arrive one after another, and the real images of a task are gone when the next one comes. A few
images of every task are encoded and merged into the memory. When it outgrows its budget, it keeps equally many images of
every class; nothing is quantised again. The network trains on the images of the task and on the memory, and is tested on real
images of all digits so far; beside it is a network without a memory.

    python examples/continual_learning.py --budget 12000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gsdata
from gsdata import GaussianDataset
from gsdata_tools.encode import main as gsd_encode
from gsdata_tools.sources import load

TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def encoded(images: np.ndarray, labels: np.ndarray, gaussians: int, steps: int) -> gsdata.GsdFile:
    """Images, uint8 (N, H, W, C), as a .gsd file in memory, made by the command gsd-encode."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "task.npz"), Path(folder, "task.gsd")
        np.savez(source, x=images, y=labels, classes=[str(digit) for digit in range(10)])
        options = ["--gaussians", str(gaussians), "--steps", str(steps), "--quiet"]
        if code := gsd_encode(["--data", str(source), *options, "-o", str(target)]):
            raise SystemExit(code)
        return gsdata.open(target.read_bytes())


def within(memory: gsdata.GsdFile, budget: int) -> gsdata.GsdFile:
    """The memory, or as many images of every class as the budget holds."""
    labels = memory.labels
    place = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])  # of an image within its class
    most = int(place.max()) + 1
    while memory.byte_table().total > budget:
        most -= 1
        if most == 0:
            raise SystemExit(f"a budget of {budget} bytes holds no image of every class: give more")
        memory = memory.subset(np.flatnonzero(place < most))
        place = place[place < most]
    return memory


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)


def new_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(1024, 10)),
    )


def train(network: nn.Module, sets: list[tuple[torch.Tensor, torch.Tensor]], steps: int) -> None:
    """Steps of 64 images, equally many out of each set."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = [torch.randint(len(labels), (64 // len(sets),)) for _, labels in sets]
        images = torch.cat([images[rows] for (images, _), rows in zip(sets, chosen, strict=True)])
        labels = torch.cat([labels[rows] for (_, labels), rows in zip(sets, chosen, strict=True)])
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return 100 * (network(images).argmax(dim=1) == labels).float().mean().item()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--budget", type=int, default=12000, help="bytes that the memory may weigh (default: 12000)")
parser.add_argument(
    "--remember", type=int, default=40, metavar="N", help="images of each class to encode (default: 40)"
)
parser.add_argument("--gaussians", type=int, default=20, help="Gaussians of an image (default: 20)")
parser.add_argument("--fit-steps", type=int, default=300, help="steps of the encoder (default: 300)")
parser.add_argument("--steps", type=int, default=150, help="steps of training in a task (default: 150)")
arguments = parser.parse_args()

digits, test = load("mnist-5k", split="train"), load("mnist-5k", split="test")
with_memory, without = new_network(), new_network()
memory: gsdata.GsdFile | None = None
remembered: list[tuple[torch.Tensor, torch.Tensor]] = []  # the memory as a set to train on, once there is one

print("digits so far   memory: images    bytes   as pixels   accuracy with it   without")
for task in TASKS:
    mine = np.isin(digits.labels, task)
    new = tensors(digits.images[mine], digits.labels[mine])
    train(without, [new], arguments.steps)
    train(with_memory, [new, *remembered], arguments.steps)

    # The task is over: some of its images join the memory.
    rows = np.concatenate([np.flatnonzero(digits.labels == digit)[: arguments.remember] for digit in task])
    more = encoded(digits.images[rows], digits.labels[rows], arguments.gaussians, arguments.fit_steps)
    memory = within(more if memory is None else gsdata.merge([memory, more]), arguments.budget)
    dataset = GaussianDataset(memory)
    remembered = [(dataset.images(), torch.tensor(dataset.targets))]

    seen = test.labels <= max(task)
    tests = tensors(test.images[seen], test.labels[seen])
    accuracies = accuracy(with_memory, *tests), accuracy(without, *tests)
    print(
        f"{'0 to ' + str(max(task)):15}{len(memory):15}{memory.byte_table().total:9,}{len(memory) * 784:12,}"
        f"{accuracies[0]:17.1f} %{accuracies[1]:8.1f} %"
    )
