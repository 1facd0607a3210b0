"""``GaussianDataset`` under what torch users put around a dataset: samplers, subsets, workers, transforms, loaders of others."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset, WeightedRandomSampler

from gsdata import GaussianDataset, GaussianLoader
from synthetic import gsd

COUNTS = [7, 3, 0, 12, 1, 9, 30, 4, 5, 6, 2, 8]
LABELS = [2, 0, 1, 1, 0, 2, 0, 0, 1, 2, 2, 1]
DATA = gsd(COUNTS, labels=LABELS, classes=["ant", "bee", "cat"], chunk_images=5)


def joined(batches):
    images, targets = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(targets).tolist()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("sets") / "set.gsd"
    target.write_bytes(DATA)
    return target


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [0, 3, 4])
def test_shuffled_through_workers(path, workers):
    ds = GaussianDataset(path, size=24)
    draws = torch.Generator().manual_seed(1)
    loader = DataLoader(ds, 5, shuffle=True, num_workers=workers, generator=draws, timeout=60 if workers else 0)
    images, targets = joined(loader)
    order = torch.randperm(12, generator=generator_of_the_sampler()).tolist()
    assert targets == [LABELS[i] for i in order]
    assert torch.equal(images, ds.images(order))


def generator_of_the_sampler() -> torch.Generator:
    """In the state in which ``RandomSampler`` finds it: ``DataLoader`` draws one number before."""
    draws = torch.Generator().manual_seed(1)
    torch.empty((), dtype=torch.int64).random_(generator=draws)
    return draws


def test_subsets_and_concatenation(path):
    ds = GaussianDataset(path)
    both = ConcatDataset([Subset(ds, [5, 6]), GaussianDataset(gsd([4, 4], labels=[1, 0]))])
    images, targets = joined(DataLoader(both, 3, num_workers=2, timeout=60))
    assert targets == [2, 0, 1, 0]
    assert torch.equal(images[:2], ds.images([5, 6]))
    assert torch.equal(images[2:], GaussianDataset(gsd([4, 4])).images())
    halves = torch.utils.data.random_split(ds, [0.5, 0.5], torch.Generator().manual_seed(0))
    assert sorted(target for half in halves for _, target in half) == sorted(LABELS)


def test_a_distributed_sampler_shares_it_out(path):
    ds = GaussianDataset(path)
    seen = []
    for rank in range(5):
        sampler = DistributedSampler(ds, 5, rank, seed=3)
        sampler.set_epoch(2)
        images, targets = joined(DataLoader(ds, 2, sampler=sampler))
        order = list(sampler)
        assert torch.equal(images, ds.images(order))
        assert targets == [LABELS[i] for i in order]
        seen += order
    assert len(seen) == 15
    assert set(seen) == set(range(12))


def test_a_sampler_balances_classes_by_the_targets(path):
    ds = GaussianDataset(path)
    weights = 1 / np.bincount(ds.targets)[ds.targets]
    sampler = WeightedRandomSampler(weights.tolist(), 300, generator=torch.Generator().manual_seed(0))
    _, targets = joined(DataLoader(ds, 50, sampler=sampler))
    assert np.bincount(targets).min() > 75


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own business
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_data_loader_resumes_it(path, workers):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    ds = GaussianDataset(path)

    def new():
        torch.manual_seed(7)
        return loaders.StatefulDataLoader(ds, 2, shuffle=True, num_workers=workers)

    loader = new()
    batches = iter(loader)
    next(batches)
    next(batches)
    state = loader.state_dict()
    rest, labels = joined(batches)
    again = new()
    again.load_state_dict(state)
    images, targets = joined(again)
    assert len(targets) == 8
    assert targets == labels
    assert torch.equal(images, rest)


def test_sizes_may_differ_from_call_to_call(path):
    ds = GaussianDataset(path, normalize=False)
    assert ds.images([3, 1], size=20).shape == (2, 3, 20, 20)
    large = ds.at_size((30, 16))
    assert torch.equal(large.images([3]), ds.images([3], size=(30, 16)))
    assert large[3][0].shape == (3, 30, 16)
    assert large.size == (30, 16)
    assert ds.size == (12, 10)
    assert ds[3][0].shape == (3, 12, 10), "the first one is as it was"
    assert large._resident is ds._resident, "nothing is decoded again"
    assert torch.equal(large.at_size(None).images(), ds.images())
    sizes = [(images.shape[2], len(images)) for side in (16, 24) for images, _ in DataLoader(ds.at_size(side), 8)]
    assert sizes == [(16, 8), (16, 4), (24, 8), (24, 4)]
    with pytest.raises(ValueError, match="size must lie in"):
        ds.at_size(0)


@pytest.fixture(scope="module")
def v2():
    """torchvision's transforms. PyPI's torchvision is its CUDA build: beside a CPU build of torch its operators are missing,
    two of which its import asks for and no transform does."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import torchvision.transforms.v2 as found
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.transforms.v2 as found
    yield found
    del library


@pytest.mark.parametrize("output", ["tensor", "uint8", "pil"])
def test_transforms_of_torchvision(path, v2, output):
    steps = [v2.RandomHorizontalFlip(1.0), v2.CenterCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    ds = GaussianDataset(path, output=output, clamp=True, transform=v2.Compose(steps))
    images, targets = joined(DataLoader(ds, 5, num_workers=2, timeout=60))
    assert targets == LABELS
    plain = GaussianDataset(path, output="tensor" if output == "tensor" else "uint8", clamp=True).images()
    expected = plain.flip(3)[:, :, 2:10, 1:9]
    torch.testing.assert_close(images, expected if output == "tensor" else expected.float() / 255)
    mixed, soft = v2.MixUp(num_classes=3)(GaussianDataset(path).images(range(4)), torch.tensor(ds.targets[:4]))
    assert mixed.shape == (4, 3, 12, 10)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_transforms_of_kornia(path):
    kornia = pytest.importorskip("kornia.augmentation")
    flip = kornia.RandomHorizontalFlip(p=1.0)
    ds = GaussianDataset(path, transform=lambda image: flip(image)[0])
    images, _ = joined(DataLoader(ds, 5))
    assert torch.equal(images, ds.images().flip(3))
    [(batch, _)] = GaussianLoader(path, 12, augment=flip)
    assert torch.equal(batch, ds.images().flip(3))
