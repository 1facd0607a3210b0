"""Train a ResNet on a .gsd file in plain PyTorch, and test it on real images.

It shows that nothing but the loader is new in a training script. The images are rendered batch by batch, on the device that
trains, in the size, memory format and normalisation that the network wants.

    gsd-encode --data mnist-5k --gaussians 20 -o digits.gsd
    python examples/train_resnet.py digits.gsd --test mnist-5k
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gsdata import GaussianLoader
from gsdata_tools.sources import load


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


def resnet(channels: int, classes: int, width: int) -> nn.Sequential:
    """A ResNet for small images: a stem without pooling, three stages of two blocks."""
    stages = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
    blocks = [block for i, o, stride in stages for block in (Block(i, o, stride), Block(o, o, 1))]
    stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file", help="the .gsd to train on")
parser.add_argument("--test", metavar="DATA", help="real images to test on, as --data of the commands names them")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--width", type=int, default=16, help="channels of the first stage (default: 16)")
parser.add_argument("--size", type=int, help="side of the images in pixels (default: the file's)")
arguments = parser.parse_args()

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
loader = GaussianLoader(
    arguments.file,
    batch_size=arguments.batch_size,
    device=device,
    size=arguments.size,
    memory_format=torch.channels_last,
    normalize=True,
    shuffle=True,
)
mean, std = torch.tensor(loader.recipe.mean, device=device), torch.tensor(loader.recipe.std, device=device)
network = resnet(len(mean), len(loader.classes), arguments.width).to(device, memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=arguments.steps)

step = 0
while step < arguments.steps:
    for images, labels in loader:  # every pass is the next epoch, in another order
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        step += 1
        if step % 50 == 0 or step == arguments.steps:
            print(f"step {step}, epoch {loader.epoch}, loss {loss.item():.3f}")
        if step == arguments.steps:
            break

if arguments.test:
    real = load(arguments.test, split="test", size=loader.size)
    network.eval()
    right = 0
    for start in range(0, len(real.images), 256):
        pixels = torch.from_numpy(real.images[start : start + 256]).to(device) / 255
        with torch.no_grad():
            guesses = network(((pixels - mean) / std).permute(0, 3, 1, 2)).argmax(dim=1)
        right += int((guesses.cpu().numpy() == real.labels[start : start + 256]).sum())
    print(f"{100 * right / len(real.images):.2f} % of {len(real.images)} real test images")
