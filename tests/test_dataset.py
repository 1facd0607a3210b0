from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

import gsdata
from gsdata import GaussianDataset, GsdError, Recipe
from gsdata import dataset as dataset_module
from gsdata.kernels import cpu, reference, threads
from synthetic import codes, gsd

COUNTS = [7, 3, 0, 12, 1, 9, 30, 4, 5, 6, 2, 8]
LABELS = [2, 0, 1, 1, 0, 2, 0, 0, 1, 2, 2, 1]
NAMES = ["ant", "bee", "cat"]
RECIPE = Recipe(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), lr=0.01, model="ConvNet-D3")
WEIGHTS = np.random.default_rng(5).dirichlet([0.4] * 3, len(COUNTS))


def hard_bytes():
    return gsd(COUNTS, labels=LABELS, classes=NAMES, recipe=RECIPE, chunk_images=5)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("sets") / "hard.gsd"
    target.write_bytes(hard_bytes())
    return target


@pytest.fixture
def large(path, monkeypatch):
    """A data set that takes the way of large files: nothing is kept, requests decode chunks."""
    monkeypatch.setattr(dataset_module, "RESIDENT_BYTES", 0)
    with gsdata.open(path) as file:
        yield GaussianDataset(file)


def equal(one, other):
    return torch.equal(one[0], other[0]) and one[1] == other[1]


def test_items_are_what_torchvision_yields(path):
    ds = GaussianDataset(path)
    image, target = ds[3]
    assert isinstance(ds, torch.utils.data.Dataset)
    assert image.dtype == torch.float32
    assert image.shape == (3, 12, 10)
    assert type(target) is int
    assert target == 1
    assert len(ds) == 12
    assert ds.classes == NAMES
    assert ds.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert ds.targets == LABELS
    assert all(type(target) is int for target in ds.targets)
    assert ds.recipe == RECIPE


@pytest.mark.parametrize("size", [None, 17, (9, 30)])
def test_pixels_are_those_of_the_reference_renderer(path, size):
    ds = GaussianDataset(path, size=size)
    expected = reference.render(codes(COUNTS).dequantize(), ds.size, None)
    assert ds.size == {None: (12, 10), 17: (17, 17)}.get(size, size)
    for index in range(len(ds)):
        np.testing.assert_allclose(ds[index][0].numpy(), expected[index], atol=2e-4)
    assert torch.equal(ds.images(), torch.stack([image for image, _ in ds]))
    assert torch.equal(ds.images([4, -1]), torch.stack([ds[4][0], ds[11][0]]))


def test_indices(path):
    ds = GaussianDataset(path)
    assert equal(ds[-1], ds[11])
    assert equal(ds[-12], ds[0])
    assert equal(ds[np.int64(4)], ds[torch.tensor(4)])
    assert [target for _, target in ds] == LABELS  # a for loop ends where IndexError says so
    assert ds.__getitems__([]) == []
    for index in (12, -13):
        with pytest.raises(IndexError, match=f"^image index {index} is out of range for 12 images$"):
            ds[index]
    for index in (1.0, "1", [1, 2], slice(2), None):
        with pytest.raises(TypeError, match="must be an integer"):
            ds[index]


@given(st.lists(st.integers(-12, 11), max_size=20))
def test_a_batch_is_its_items_bit_for_bit(indices):
    for ds in (RESIDENT, CHUNKED):
        batch = ds.__getitems__(indices)
        assert len(batch) == len(indices)
        assert all(equal(item, RESIDENT[index]) for item, index in zip(batch, indices, strict=True))


RESIDENT = GaussianDataset(hard_bytes(), size=11)
CHUNKED = GaussianDataset(hard_bytes(), size=11)
CHUNKED._resident = None


def test_a_batch_is_one_call_of_the_renderer(path, monkeypatch):
    ds = GaussianDataset(path)
    calls = []
    monkeypatch.setattr(dataset_module, "render", lambda *a, **k: calls.append(a) or gsdata.render(*a, **k))
    images, targets = next(iter(DataLoader(ds, batch_size=8)))
    assert len(calls) == 1
    assert images.shape == (8, 3, 12, 10)
    assert targets.tolist() == LABELS[:8]


def loaded(ds, **options):
    return list(DataLoader(ds, batch_size=5, shuffle=False, timeout=60 if options.get("num_workers") else 0, **options))


@pytest.mark.parametrize(
    ("workers", "method"),
    [(1, "fork"), (2, "fork"), (1, "spawn"), pytest.param(2, "spawn", marks=pytest.mark.slow)],
)
def test_workers_change_no_bit(path, monkeypatch, workers, method):
    monkeypatch.setenv("GSDATA_NUM_THREADS", "2")
    monkeypatch.setattr(cpu, "MIN_CHUNK", 1)
    ds = GaussianDataset(path, size=96, normalize=True)
    alone = loaded(ds)
    assert threads._pools, "the parent must have a pool of threads, which no child inherits"
    for (images, targets), (other, labels) in zip(
        alone, loaded(ds, num_workers=workers, multiprocessing_context=method), strict=True
    ):
        assert torch.equal(images, other)
        assert torch.equal(targets, labels)


def test_workers_of_a_large_file(large):
    alone = loaded(large)
    assert large._resident is None
    for (images, targets), (other, labels) in zip(alone, loaded(large, num_workers=2), strict=True):
        assert torch.equal(images, other)
        assert torch.equal(targets, labels)


def test_large_files_are_decoded_on_request(large, path):
    assert large._resident is None
    small = GaussianDataset(path)
    large._resident = None
    for index in (11, 0, 5):
        assert equal(large[index], small[index])
    again = pickle.loads(pickle.dumps(large))
    assert again._resident is None
    assert equal(again[7], small[7])
    again.file.close()


def test_pickling_carries_no_gaussians(path):
    ds = GaussianDataset(path, size=20, labels="soft", target_transform=torch.argmax)
    again = pickle.loads(pickle.dumps(ds))
    assert equal(again[6], ds[6])
    assert equal(copy.deepcopy(ds)[6], ds[6])
    shallow = copy.copy(ds)
    assert equal(shallow[6], ds[6])
    assert shallow.file is ds.file
    assert shallow._resident is ds._resident
    assert equal(Subset(ds, [5, 6])[1], ds[6])


def test_a_pickle_of_a_file_is_small(tmp_path):
    path = tmp_path / "set.gsd"
    path.write_bytes(gsd([500] * 20))
    assert len(pickle.dumps(GaussianDataset(path))) < 5_000  # 320,000 bytes of Gaussians, and labels
    assert len(pickle.dumps(GaussianDataset(path.read_bytes()))) < path.stat().st_size + 5_000


def test_sources(path):
    expected = GaussianDataset(path)[0]
    assert equal(GaussianDataset(str(path))[0], expected)
    assert equal(GaussianDataset(path.read_bytes())[0], expected)
    assert equal(GaussianDataset(io.BytesIO(path.read_bytes()))[0], expected)
    with gsdata.open(path) as file:
        assert equal(GaussianDataset(file)[0], expected)
        file.codes()  # the caller's file stays open


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors in /proc")
def test_no_descriptor_is_held(path):
    ds = GaussianDataset(path)
    targets = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert str(path) not in targets
    assert len(ds[0][0]) == 3


def test_damage_is_found_when_the_set_is_opened(path, tmp_path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    bad = tmp_path / "bad.gsd"
    bad.write_bytes(data)
    with pytest.raises(GsdError, match="checksum"):
        GaussianDataset(bad)


def test_normalize(path):
    plain, normal = GaussianDataset(path)[6][0], GaussianDataset(path, normalize=True)[6][0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (RECIPE.mean, RECIPE.std))
    torch.testing.assert_close(normal * std + mean, plain)
    both = GaussianDataset(path, normalize=True, clamp=True)[6][0]
    torch.testing.assert_close(both * std + mean, plain.clamp(0, 1))


def test_normalize_says_what_is_missing(path):
    with pytest.raises(ValueError, match="needs the recipe's mean and std") as caught:
        GaussianDataset(gsd(), normalize=True)
    assert "\n" not in str(caught.value)
    zca = gsd(recipe=Recipe(zca={"data": "cifar10", "split": "train", "epsilon": 0.1}))
    with pytest.raises(ValueError, match=r"ZCA.*real images \(data cifar10, epsilon 0.1, split train\)") as caught:
        GaussianDataset(zca, normalize=True)
    assert "\n" not in str(caught.value)
    assert GaussianDataset(zca)[0][0].shape == (3, 12, 10)
    with pytest.raises(ValueError, match="normalize=True needs output='tensor', found 'uint8'"):
        GaussianDataset(path, normalize=True, output="uint8")


def test_clamp_and_uint8(path):
    plain = GaussianDataset(path).images()
    assert plain.min() < 0 or plain.max() > 1, "the test file must need clamping"
    assert torch.equal(GaussianDataset(path, clamp=True).images(), plain.clamp(0, 1))
    encoded = gsd(COUNTS, recipe=Recipe(clamp=True))
    assert torch.equal(GaussianDataset(encoded).images(), GaussianDataset(encoded, clamp=False).images().clamp(0, 1))
    assert not torch.equal(GaussianDataset(encoded).images(), GaussianDataset(encoded, clamp=False).images())
    pixels = GaussianDataset(path, output="uint8")
    assert pixels[3][0].dtype == torch.uint8
    assert torch.equal(pixels.images(), (plain.clamp(0, 1) * 255).round().to(torch.uint8))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_pil(channels, mode):
    data = gsd(COUNTS, channels=channels)
    image, target = GaussianDataset(data, output="pil", size=(9, 14))[6]
    assert image.mode == mode
    assert image.size == (14, 9)
    assert target == -1
    pixels = GaussianDataset(data, output="uint8", size=(9, 14))[6][0]
    assert pixels.float().std() > 1, "a flat image would hide swapped axes"
    np.testing.assert_array_equal(np.asarray(image).reshape(9, 14, channels), pixels.permute(1, 2, 0).numpy())


def test_transforms(path):
    ds = GaussianDataset(
        path, output="uint8", transform=lambda x: ("seen", x.dtype), target_transform=lambda y: NAMES[y].upper()
    )
    assert ds[3] == (("seen", torch.uint8), "BEE")
    assert ds.__getitems__([3, 0])[1][1] == "CAT"
    assert ds.targets == LABELS


def test_a_set_without_labels():
    ds = GaussianDataset(gsd(COUNTS))
    assert ds.targets == [-1] * 12
    assert ds.classes == []
    assert ds[0][1] == -1
    with pytest.raises(ValueError, match="labels='soft' needs labels, and this file has none"):
        GaussianDataset(gsd(COUNTS), labels="soft")


def test_soft_labels(tmp_path):
    path = tmp_path / "soft.gsd"
    path.write_bytes(gsd(COUNTS, soft_labels=WEIGHTS, classes=NAMES))
    ds = GaussianDataset(path, labels="soft")
    _, target = ds[4]
    assert target.dtype == torch.float32
    for index in range(len(ds)):
        np.testing.assert_allclose(ds[index][1].numpy(), WEIGHTS[index], atol=0.01)
        assert float(ds[index][1].sum()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(ds))[4][1], target)
    assert next(iter(DataLoader(ds, batch_size=4)))[1].shape == (4, 3)
    hard = GaussianDataset(path)
    assert hard.targets == WEIGHTS.argmax(1).tolist()
    assert hard[4][1] == int(WEIGHTS[4].argmax())


def test_hard_labels_as_soft_ones_are_one_hot(path):
    ds = GaussianDataset(path, labels="soft")
    for index, label in enumerate(LABELS):
        assert ds[index][1].tolist() == [float(k == label) for k in range(3)]
        assert ds[index][1].dtype == torch.float32


def test_classes_without_names_are_called_by_number():
    ds = GaussianDataset(gsd(COUNTS, labels=LABELS, class_count=4))
    assert ds.classes == ["0", "1", "2", "3"]
    assert ds.class_to_idx["3"] == 3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"output": "numpy"}, "output must be one of tensor, uint8, pil, found 'numpy'"),
        ({"labels": "fuzzy"}, "labels must be one of hard, soft, found 'fuzzy'"),
        ({"size": 0}, "size must lie in"),
        ({"size": (3, -1)}, "size must lie in"),
    ],
)
def test_bad_options_are_refused_before_a_worker_meets_them(path, options, line):
    with pytest.raises(ValueError, match=line):
        GaussianDataset(path, **options)


def test_repr_tells_what_is_yielded(path):
    text = repr(GaussianDataset(path, size=(24, 20), normalize=True, transform=str))
    assert text.splitlines()[0] == "Dataset GaussianDataset"
    for part in (
        "Number of datapoints: 12",
        f"File: {path}, {path.stat().st_size} bytes",
        "Images: 3 x 12x10, 7.2 Gaussians each, decoded at 24x20",
        "Labels: hard; 3 classes: ant, bee, cat",
        "normalized by mean (0.4, 0.5, 0.6), std (0.2, 0.25, 0.3)",
        "Transform: <class 'str'>",
    ):
        assert f"    {part}" in text or part in text, part
    hostile = GaussianDataset(gsd(labels=[0] * 4, classes=["\x1b[31mred"]))
    assert "\x1b" not in repr(hostile)


def test_an_empty_set():
    ds = GaussianDataset(gsd([]))
    assert len(ds) == 0
    assert list(ds) == []
    assert ds.images().shape == (0, 3, 12, 10)
    assert "Number of datapoints: 0" in repr(ds)
