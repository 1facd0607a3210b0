"""Train on a .gsd file in several processes, each on its own part of every epoch.

It shows GaussianLoader's rank and world_size: one order for all processes, of which each takes its part, so that no image is seen
twice in an epoch but for padding; the loader asks nothing of torch.distributed. Gradients are averaged by
DistributedDataParallel, over gloo on CPUs and NCCL on GPUs.

    gsd-encode --data mnist-5k --gaussians 20 -o digits.gsd
    torchrun --nproc-per-node 2 examples/train_ddp.py digits.gsd --steps 50
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from gsdata import GaussianLoader

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file", help="the .gsd to train on")
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--batch-size", type=int, default=64, help="images of a step in each process (default: 64)")
arguments = parser.parse_args()
if "RANK" not in os.environ:
    parser.error("start it with torchrun --nproc-per-node N examples/train_ddp.py FILE")

cuda = torch.cuda.is_available()
distributed.init_process_group("nccl" if cuda else "gloo")
rank, world_size = distributed.get_rank(), distributed.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")

loader = GaussianLoader(
    arguments.file,
    batch_size=arguments.batch_size,
    device=device,
    normalize=True,
    shuffle=True,
    rank=rank,
    world_size=world_size,
)
torch.manual_seed(0)
network = nn.Sequential(
    *(nn.LazyConv2d(32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
    *(nn.Flatten(), nn.Linear(1024, len(loader.classes))),
).to(device)
network(next(iter(loader))[0])  # the lazy layer learns the number of channels
loader.set_epoch(0)
model = DistributedDataParallel(network)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

step, images_seen, start = 0, 0, time.perf_counter()
while step < arguments.steps:
    for images, labels in loader:
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, images_seen = step + 1, images_seen + len(images)
        if rank == 0 and (step % 10 == 0 or step == arguments.steps):
            print(f"step {step}, epoch {loader.epoch}, loss {loss.item():.3f}", flush=True)
        if step == arguments.steps:
            break

# What shows that it worked: all images together, and one and the same network in every process.
total = torch.tensor([images_seen], device=device)
distributed.all_reduce(total)
weights = torch.cat([values.detach().flatten() for values in network.parameters()])
everyone = [torch.empty_like(weights) for _ in range(world_size)]
distributed.all_gather(everyone, weights)
assert all(torch.equal(weights, other) for other in everyone), "the processes ended with different networks"
if rank == 0:
    seconds = time.perf_counter() - start
    print(f"{world_size} processes, {total.item()} images in {seconds:.1f} s, one network")
distributed.destroy_process_group()
# Gloo's threads may outlive the group for a moment, and then abort an interpreter that ends: torch 2.13 does so now and then.
sys.stdout.flush()
os._exit(0)
