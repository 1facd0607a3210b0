"""Federated learning where clients send .gsd files, and what that puts on the wire beside sending weights.

Five clients see digits, half of each client's images of its own two digits. In a round every client encodes some new images and
sends the file. The server checks it, adds it to what it has, and goes on training. Beside it runs federated averaging
(McMahan et al., arXiv:1602.05629): clients train the server's network on all their images and send its weights.

This saves bandwidth and the clients' training. It is not private: an encoded image is a copy of the image.

    python examples/federated.py --rounds 5
"""

from __future__ import annotations

import argparse
import copy
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

CLIENTS = 5


def message(images: np.ndarray, labels: np.ndarray, bytes_per_image: float, steps: int) -> bytes:
    """What a client sends: images, uint8 (N, H, W, C), in at most so many bytes each, labels and header included."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "new.npz"), Path(folder, "new.gsd")
        np.savez(source, x=images, y=labels, classes=[str(digit) for digit in range(10)])
        options = ["--bytes-per-image", str(bytes_per_image), "--steps", str(steps), "--quiet"]
        if code := gsd_encode(["--data", str(source), *options, "-o", str(target)]):
            raise SystemExit(code)
        return target.read_bytes()


def received(data: bytes, most: int) -> gsdata.GsdFile:
    """What the server makes of it. The bytes come from a stranger: everything is checked before anything is rendered."""
    file = gsdata.open(data)
    file.verify()
    if file.size != (28, 28) or file.channels != 1 or file.images > most or file.gaussian_count > most * 200:
        raise gsdata.GsdError(f"not what was asked for: {file!r}")
    return file


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(labels), (64,))
        loss = cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--images", type=int, default=40, help="that a client sends in a round (default: 40)")
parser.add_argument("--bytes-per-image", type=float, default=100, help="of what it sends (default: 100)")
parser.add_argument("--fit-steps", type=int, default=300, help="steps of the encoder (default: 300)")
parser.add_argument("--steps", type=int, default=40, help="of training in a round, server or client (default: 40)")
arguments = parser.parse_args()

digits, test = load("mnist-5k", split="train"), load("mnist-5k", split="test")
pixels = torch.from_numpy(digits.images).permute(0, 3, 1, 2) / 255
classes = torch.from_numpy(digits.labels)
tests, answers = torch.from_numpy(test.images).permute(0, 3, 1, 2) / 255, torch.from_numpy(test.labels)

# Who has which images: one in two is with the client of its digit, the others are anywhere.
draws = np.random.default_rng(0)
anywhere = draws.integers(CLIENTS, size=len(digits.labels))
owner = np.where(draws.random(len(digits.labels)) < 0.5, digits.labels // 2, anywhere)
shares = [draws.permutation(np.flatnonzero(owner == client)) for client in range(CLIENTS)]

torch.manual_seed(0)
server = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
    *(nn.Flatten(), nn.Linear(1024, 10)),
)
averaged = copy.deepcopy(server)
weight_bytes = sum(4 * weights.numel() for weights in server.parameters())
collected: list[gsdata.GsdFile] = []
sent_files = sent_weights = 0

print("round   .gsd files sent: bytes so far   accuracy   weights sent: bytes so far   accuracy")
for number in range(arguments.rounds):
    # Files.
    for share in shares:
        rows = share[number * arguments.images :][: arguments.images]
        data = message(digits.images[rows], digits.labels[rows], arguments.bytes_per_image, arguments.fit_steps)
        sent_files += len(data)
        collected.append(received(data, arguments.images))
    dataset = GaussianDataset(gsdata.merge(collected))
    train(server, dataset.images(), torch.tensor(dataset.targets), arguments.steps)

    # Weights.
    clients = [copy.deepcopy(averaged) for _ in shares]
    for client, share in zip(clients, shares, strict=True):
        train(client, pixels[share], classes[share], arguments.steps)
        sent_weights += weight_bytes
    with torch.no_grad():
        for name, weights in averaged.named_parameters():
            weights.copy_(torch.stack([client.get_parameter(name) for client in clients]).mean(dim=0))
        accuracies = [100 * (n(tests).argmax(dim=1) == answers).float().mean().item() for n in (server, averaged)]
    print(f"{number + 1:5}{sent_files:32,}{accuracies[0]:9.1f} %{sent_weights:29,}{accuracies[1]:9.1f} %")
