"""A LightningDataModule over a .gsd file: training on the file, testing on real images.

It shows that GaussianDataset is an ordinary map-style dataset: Lightning puts its own samplers into the DataLoader, and a batch
is still decoded in one call.

    pip install lightning
    gsd-encode --data mnist-5k --gaussians 20 -o digits.gsd
    python examples/lightning_datamodule.py digits.gsd --test mnist-5k
"""

from __future__ import annotations

import argparse

import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from gsdata import GaussianDataset
from gsdata_tools.sources import load


class GsdDataModule(lightning.LightningDataModule):
    """Training images out of a .gsd, real images for the test, normalised alike."""

    def __init__(self, file: str, test: str, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size, self.test = batch_size, test
        self.train_set = GaussianDataset(file, normalize=True)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        real = load(self.test, split="test", size=self.train_set.size)
        mean, std = torch.tensor(self.train_set.recipe.mean), torch.tensor(self.train_set.recipe.std)
        images = ((torch.from_numpy(real.images) / 255 - mean) / std).permute(0, 3, 1, 2)
        return DataLoader(TensorDataset(images, torch.from_numpy(real.labels)), batch_size=256)


class Classifier(lightning.LightningModule):
    """A small convolutional network; nothing in it knows where images come from."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
            *(nn.Flatten(), nn.Linear(1024, classes)),
        )

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, labels = batch
        self.log("test accuracy", (self.network(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the .gsd to train on")
    parser.add_argument(
        "--test", metavar="DATA", required=True, help="real images, as --data of the commands names them"
    )
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()

    lightning.seed_everything(0)
    data = GsdDataModule(arguments.file, arguments.test)
    model = Classifier(data.train_set.file.channels, len(data.train_set.classes))
    trainer = lightning.Trainer(
        max_steps=arguments.steps, devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data)
