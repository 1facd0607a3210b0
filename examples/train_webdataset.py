"""Train on a sharded set, in a WebDataset pipeline.

It shows a set that is read group by group, so that memory does not grow with it, and divided exactly: every image once an epoch over all
processes (as torchrun counts them) and all workers, in an order that the seed and the epoch decide. Stages of WebDataset follow.

    gsd-encode --data mnist-5k --gaussians 20 --shards 4 -o shards/
    python examples/train_webdataset.py shards/ --steps 50
"""

from __future__ import annotations

import argparse
import time

import torch
import webdataset
from torch import nn
from torch.nn.functional import cross_entropy

from gsdata.wds import GaussianShards

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("shards", help="the folder of the set, or a pattern such as 'shards/train-*.tar'")
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--workers", type=int, default=2, help="processes that read and render (default: 2)")
parser.add_argument("--size", type=int, help="side of the images in pixels (default: the set's)")
arguments = parser.parse_args()

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
data = GaussianShards(arguments.shards, size=arguments.size, normalize=True, shuffle=True, seed=0)
pipeline = webdataset.DataPipeline(data, webdataset.batched(arguments.batch_size))
stay = arguments.workers > 0
loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=arguments.workers, persistent_workers=stay)
print(
    f"{len(data)} images of {len(data.classes)} classes, {len(data.shards.groups)} groups in {len(data.shards.paths)} shards"
)

network = nn.Sequential(
    *(nn.LazyConv2d(32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
    *(nn.Flatten(), nn.Linear(1024, len(data.classes))),
).to(device)
network(
    torch.zeros(1, data.shards.first.channels, *data.size, device=device)
)  # the lazy layer learns the number of channels
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

step, seen, epoch = 0, 0, 0
start = time.perf_counter()
while step < arguments.steps:
    data.set_epoch(epoch)  # reaches workers that stay too
    for images, labels in loader:
        images, labels = images.to(device), torch.as_tensor(labels, device=device)
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, seen = step + 1, seen + len(images)
        if step % 10 == 0 or step == arguments.steps:
            print(f"step {step}, epoch {epoch}, loss {loss.item():.3f}", flush=True)
        if step == arguments.steps:
            break
    epoch += 1
print(f"{seen / (time.perf_counter() - start):.0f} images/s, reading, rendering and training")
