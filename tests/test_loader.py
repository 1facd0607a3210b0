from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gsdata
from gsdata import GaussianDataset, GaussianLoader, Recipe
from gsdata import augment as dsa
from gsdata import resident as resident_module
from gsdata.order import draw
from shim import installed, needs_compiler
from synthetic import gsd

COUNTS = [7, 3, 0, 12, 1, 9, 30, 4, 5, 6, 2]
LABELS = [2, 0, 1, 1, 0, 2, 0, 0, 1, 2, 2]
NAMES = ["ant", "bee", "cat"]
RECIPE = Recipe(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), augment="dsa:color_crop_cutout_flip_scale_rotate")
DATA = gsd(COUNTS, labels=LABELS, classes=NAMES, recipe=RECIPE, chunk_images=4)
WEIGHTS = np.random.default_rng(5).dirichlet([0.4] * 3, len(COUNTS))


def threads_of_loaders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gsdata-loader")]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(one, other, strict=True)
    )


def seen(loader):
    """Which images a loader of DATA yields: numbers of the set, found by their pixels."""
    known = GaussianDataset(DATA).images().flatten(1)
    return [int((known == image.flatten()).all(1).nonzero()[0, 0]) for images, _ in loader for image in images]


def test_batches_are_those_of_the_data_set(tmp_path):
    path = tmp_path / "set.gsd"
    path.write_bytes(DATA)
    loader, ds = GaussianLoader(path, 4, size=(9, 14)), GaussianDataset(path, size=(9, 14))
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [len(images) for images, _ in batches] == [4, 4, 3]
    assert torch.equal(torch.cat([images for images, _ in batches]), ds.images())
    assert torch.cat([targets for _, targets in batches]).tolist() == LABELS == loader.targets
    assert batches[0][1].dtype == torch.int64
    assert (loader.classes, loader.class_to_idx, loader.recipe) == (NAMES, ds.class_to_idx, RECIPE)
    assert (loader.num_images, loader.size) == (11, (9, 14))
    assert "3 batches of 4 x 3 x 9 x 14" in repr(loader)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("normalize", "clamp"), [(False, False), (True, False), (True, True)])
def test_formats(dtype, layout, normalize, clamp):
    if normalize and dtype == torch.uint8:
        return
    options = {"size": (70, 90), "normalize": normalize, "clamp": clamp}
    [(images, _)] = GaussianLoader(DATA, 11, dtype=dtype, memory_format=layout, **options)
    output = "uint8" if dtype == torch.uint8 else "tensor"
    assert torch.equal(images, GaussianDataset(DATA, output=output, **options).images().to(dtype))
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("form", [{}, {"dtype": torch.bfloat16}, {"normalize": True, "clamp": True}])
def test_every_device_gets_the_same(monkeypatch, layout, form):
    # The way of devices without kernels of their own: torch tensors, torch operations on the batch.
    options = {"memory_format": layout, **form}
    expected = list(GaussianLoader(DATA, 5, shuffle=True, **options))
    monkeypatch.setattr(
        resident_module, "_on_cpu", lambda codes, form: resident_module._by_torch(codes, torch.device("cpu"), form)
    )
    for (images, targets), (others, same_targets) in zip(
        GaussianLoader(DATA, 5, shuffle=True, **options), expected, strict=True
    ):
        assert images.is_contiguous(memory_format=layout)
        assert images.dtype == others.dtype
        torch.testing.assert_close(images, others, atol=1e-4, rtol=1e-5 if images.dtype == torch.float32 else 0.01)
        assert torch.equal(targets, same_targets)


@needs_compiler
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "form",
    [{}, {"dtype": torch.bfloat16, "normalize": True}, {"normalize": True, "clamp": True}, {"dtype": torch.uint8}],
)
def test_the_cuda_kernels_get_rows_and_format(monkeypatch, layout, form):
    options = {"memory_format": layout, "size": (20, 33), **form}
    expected = list(GaussianLoader(DATA, 5, shuffle=True, **options))
    monkeypatch.setattr(resident_module, "kernels_run_on", lambda device: True)
    with installed() as launcher:
        found = list(GaussianLoader(DATA, 5, shuffle=True, **options))
    assert len(launcher.launches) == 3, "one launch for a batch"
    for (images, targets), (others, same_targets) in zip(found, expected, strict=True):
        assert images.is_contiguous(memory_format=layout)
        assert images.dtype == others.dtype
        away = (images.float() - others.float()).abs().max()
        assert away <= {torch.uint8: 1, torch.bfloat16: 0.05}.get(images.dtype, 2e-4)
        assert torch.equal(targets, same_targets)


def test_the_order_is_that_of_seed_and_epoch_whatever_else():
    orders = {
        tuple(seen(GaussianLoader(DATA, size, shuffle=True, seed=3, prefetch=ahead)))
        for size in (1, 4, 11, 50)
        for ahead in (0, 1, 5)
    }
    assert len(orders) == 1
    assert sorted(orders.pop()) == list(range(11))


def test_every_iteration_is_the_next_epoch():
    loader, again = (GaussianLoader(DATA, 4, shuffle=True) for _ in range(2))
    first, second, third = seen(loader), seen(loader), seen(loader)
    assert first != second != third
    assert loader.epoch == 3
    again.set_epoch(2)
    assert again.epoch == 2
    assert seen(again) == third
    again.set_epoch(0)
    assert seen(again) == first
    for _ in again:  # a broken iteration counts as one
        break
    assert seen(again) == third


@pytest.mark.parametrize("uneven", ["pad", "drop", "exact"])
def test_ranks(uneven):
    loaders = [
        GaussianLoader(DATA, 3, shuffle=True, rank=r, world_size=4, uneven=uneven, seed=1, prefetch=r) for r in range(4)
    ]
    parts = [seen(loader) for loader in loaders]
    whole = seen(GaussianLoader(DATA, 3, shuffle=True, seed=1))
    assert [len(part) for part in parts] == {"pad": [3] * 4, "drop": [2] * 4, "exact": [3, 3, 3, 2]}[uneven]
    together = [part[i] for i in range(3) for part in parts if i < len(part)]
    assert together == {"pad": [*whole, whole[0]], "drop": whole[:8], "exact": whole}[uneven]


def test_drop_last():
    loader = GaussianLoader(DATA, 4, drop_last=True)
    assert [len(images) for images, _ in loader] == [4, 4]
    assert len(loader) == 2
    assert loader.epoch == 1
    assert list(GaussianLoader(DATA, 12, drop_last=True)) == []


@given(
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 6),
)
def test_a_state_goes_on_where_it_was_taken(batch, taken, ahead, ahead_again, world, drop_last, batch_again):
    options = {"shuffle": True, "seed": 8, "rank": world - 1, "world_size": world, "uneven": "exact"}
    loader = GaussianLoader(FILE, batch, prefetch=ahead, drop_last=drop_last, **options)
    loader.set_epoch(2)
    left = iter(loader)
    before = [item for _, item in zip(range(taken), left, strict=False)]
    state = json.loads(json.dumps(loader.state_dict()))
    rest = list(left)
    new = GaussianLoader(FILE, batch, prefetch=ahead_again, drop_last=drop_last, **options)
    new.load_state_dict(state)
    if len(before) < len(loader):
        assert new.epoch == 2
    if new.epoch == 2:
        new.set_epoch(2)  # as training loops do, also after a state was loaded
        assert same(list(new), rest)
    # What comes after it is the next epoch, whole; also where the state was taken after the last batch.
    assert new.epoch == 3
    assert same(list(new), list(loader))
    other = GaussianLoader(FILE, batch_again, prefetch=ahead_again, **options)
    other.load_state_dict(state)
    images = [image for batch, _ in other for image in batch]
    if not drop_last and len(before) < len(loader):
        assert torch.equal(torch.stack(images), torch.cat([batch for batch, _ in rest]))


FILE = gsdata.open(DATA)


def test_state_of_a_broken_iteration_and_of_two_at_once():
    loader = GaussianLoader(DATA, 2, shuffle=True)
    for number, _ in enumerate(loader):
        if number == 1:
            break
    assert loader.state_dict()["images_done"] == 4
    old, new = iter(loader), iter(loader)
    next(old)
    next(new)
    next(new)
    next(old)
    assert (loader.epoch, loader.state_dict()["images_done"]) == (2, 4), "the state is that of the last iteration"
    loader.set_epoch(9)
    next(new)
    assert loader.state_dict()["epoch"] == 9
    assert loader.state_dict()["images_done"] == 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 1}, "the state was taken with seed=1, this loader has 0"),
        ({"world_size": 2}, "the state was taken with world_size=2, this loader has 1"),
        ({"images": 12}, "the state was taken with images=12, this loader has 11"),
        ({"images_done": 12}, "images_done must be an integer from 0 to 11, found 12"),
        ({"epoch": -1}, "epoch must be an integer from 0"),
    ],
)
def test_states_of_something_else_are_refused(change, line):
    loader = GaussianLoader(DATA, 2)
    with pytest.raises(ValueError, match=line):
        loader.load_state_dict(loader.state_dict() | change)
    with pytest.raises(ValueError, match="the state was taken with images=None"):
        loader.load_state_dict({})


def test_subsets():
    assert seen(GaussianLoader(DATA, 4, indices=[5, -1, 3, 3])) == [5, 10, 3, 3]
    loader = GaussianLoader(DATA, 4, classes=["cat", "ant"])
    assert seen(loader) == [i for i, label in enumerate(LABELS) if label in (0, 2)]
    assert set(loader.targets) == {0, 2}
    assert loader.classes == NAMES
    assert seen(GaussianLoader(DATA, 4, indices=np.arange(6), classes=["bee"])) == [2, 3]
    assert GaussianLoader(gsd(COUNTS, labels=LABELS, class_count=3), 4, classes=["1"]).num_images == 3
    often = GaussianLoader(DATA, 500, indices=[6, 0] * 500, resident_bytes=37 * 32)  # kept once: 37 Gaussians
    assert torch.equal(next(iter(often))[0], GaussianDataset(DATA).images([6, 0] * 250))
    empty = GaussianLoader(DATA, 4, classes=[])
    assert (len(empty), list(empty), empty.epoch) == (0, [], 1)
    soft = GaussianLoader(DATA, 4, indices=[3, 0], labels="soft")
    assert next(iter(soft))[1].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_soft_labels():
    data = gsd(COUNTS, soft_labels=WEIGHTS, classes=NAMES)
    ds = GaussianDataset(data, labels="soft")
    found = torch.cat([targets for _, targets in GaussianLoader(data, 4, labels="soft")])
    assert torch.equal(found, torch.stack([target for _, target in ds]))
    assert GaussianLoader(data, 4).targets == WEIGHTS.argmax(1).tolist()
    assert [targets.tolist() for _, targets in GaussianLoader(gsd([2, 1]), 4)] == [[-1, -1]]


def test_several_files_are_one_set():
    other = gsd([4, 8, 3], size=(6, 8), labels=[0, 1, 2], classes=["cat", "dog", "ant"])
    third = gsd([5, 5], labels=[0, 1], classes=["bee", "ant"])
    loader = GaussianLoader([DATA, other, third], 4, size=7)
    assert loader.classes == ["ant", "bee", "cat", "dog"]
    assert loader.targets == [*LABELS, 2, 3, 0, 1, 0]
    assert loader.recipe == Recipe()
    expected = torch.cat([GaussianDataset(data, size=7).images() for data in (DATA, other, third)])
    assert torch.equal(torch.cat([images for images, _ in loader]), expected)
    mixed = GaussianLoader(
        [DATA, other, third], 16, size=7, indices=[14, 0, 12, 15, 1], memory_format=torch.channels_last
    )
    [(images, targets)] = mixed
    assert torch.equal(images, expected[[14, 0, 12, 15, 1]])
    assert targets.tolist() == [1, 2, 3, 0, 0]
    [(images, _)] = GaussianLoader([DATA, third], 16, indices=[12, 0, 11, 10])  # one geometry, decoded file by file
    assert torch.equal(images, torch.cat([GaussianDataset(d).images() for d in (DATA, third)])[[12, 0, 11, 10]])
    soft = GaussianLoader([DATA, other], 20, size=7, labels="soft")
    assert next(iter(soft))[1].argmax(1).tolist() == soft.targets


@pytest.mark.parametrize(
    ("others", "options", "line"),
    [
        ([gsd(size=(9, 9), labels=[0] * 4, classes=["x"])], {}, r"is \(9, 9\), .* is \(12, 10\): say which with size="),
        ([gsd(channels=1, labels=[0] * 4, classes=["x"])], {}, "has 1 channels, .* has 3"),
        ([gsd()], {}, "cannot unite labels of the kinds hard, none"),
        ([gsd(labels=[0] * 4, classes=["x"])], {"normalize": True}, "needs the recipe's mean and std"),
        (
            [gsd(labels=[0] * 4, classes=["x"], recipe=Recipe(mean=(0.0,) * 3, std=(1.0,) * 3))],
            {"normalize": True},
            "has another mean and std than",
        ),
        ([gsd(labels=[0] * 4, classes=["x"])], {"augment": "recipe"}, "needs a recipe that names one"),
    ],
)
def test_files_that_do_not_fit(others, options, line):
    with pytest.raises(ValueError, match=line) as caught:
        GaussianLoader([DATA, *others], 4, **options)
    assert "\n" not in str(caught.value)


def test_augmentation_by_recipe_is_keyed_by_place():
    options = {"shuffle": True, "normalize": True, "seed": 5}
    loader = GaussianLoader(DATA, 4, augment="recipe", **options)
    plain = GaussianLoader(DATA, 4, **options)
    for epoch in range(2):
        for number, ((images, _), (bare, _)) in enumerate(zip(loader, plain, strict=True)):
            seed = int(draw(1, 5, epoch, "augment", 4 * number)[0] >> np.uint64(1))
            assert torch.equal(images, dsa.augment(bare, seed=seed))
            assert not torch.equal(images, bare)
    half = GaussianLoader(DATA, 4, augment="recipe", dtype=torch.bfloat16, memory_format=torch.channels_last, **options)
    again = GaussianLoader(DATA, 4, augment="recipe", prefetch=0, **options)
    for (images, _), (full, _) in zip(half, again, strict=True):
        assert torch.equal(images, full.to(torch.bfloat16))
        assert images.is_contiguous(memory_format=torch.channels_last)
    ranks = [GaussianLoader(DATA, 4, augment="recipe", rank=r, world_size=2, indices=[6] * 8) for r in range(2)]
    assert not torch.equal(next(iter(ranks[0]))[0], next(iter(ranks[1]))[0])


def test_augmentation_by_a_function_runs_where_the_batch_is_taken():
    threads = []

    def noise(images):
        threads.append(threading.current_thread())
        return images + torch.rand(1)

    def run(ahead):
        torch.manual_seed(0)
        return [images + torch.rand(1) for images, _ in GaussianLoader(DATA, 3, augment=noise, prefetch=ahead)]

    for one, other in zip(run(0), run(3), strict=True):
        assert torch.equal(one, other), "the global generator is drawn from in the order of the loop"
    assert set(threads) == {threading.main_thread()}


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be an integer from 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, found 2.0"),
        ({"prefetch": -1}, ValueError, "prefetch must be an integer from 0"),
        ({"dtype": torch.float64}, ValueError, "dtype must be one of torch.float32, .*found torch.float64"),
        ({"dtype": "float16"}, ValueError, "found 'float16'"),
        ({"memory_format": torch.preserve_format}, ValueError, "memory_format must be one of"),
        ({"normalize": True, "dtype": torch.uint8}, ValueError, "normalize=True needs a floating-point dtype"),
        ({"augment": "recipe", "dtype": torch.uint8}, ValueError, "augment='recipe' needs a floating-point dtype"),
        ({"augment": "flip"}, ValueError, "augment must be None, 'recipe' or a function of the images, found 'flip'"),
        ({"labels": "fuzzy"}, ValueError, "labels must be one of hard, soft, found 'fuzzy'"),
        ({"uneven": "x"}, ValueError, "uneven must be one of pad, drop, exact"),
        ({"rank": 1}, ValueError, "rank must be an integer from 0 to 0, found 1"),
        ({"indices": [11]}, IndexError, "image index 11 is out of range for 11 images"),
        ({"indices": [0.5]}, TypeError, "indices must be integers"),
        ({"classes": ["dog"]}, ValueError, "there is no class 'dog'; the set has ant, bee, cat"),
        ({"classes": "ant"}, TypeError, "classes must be a list of names, found the text 'ant'"),
        ({"size": 0}, ValueError, "size must lie in"),
        ({"resident_bytes": 2000}, ValueError, "2528 bytes of Gaussians, more than the 2000 that a loader keeps"),
        ({"source": []}, ValueError, "at least one file is needed"),
    ],
)
def test_bad_options(options, error, line):
    with pytest.raises(error, match=line) as caught:
        GaussianLoader(**({"source": DATA, "batch_size": 4} | options))
    assert "\n" not in str(caught.value)


def test_files_are_closed_again(tmp_path):
    path = tmp_path / "set.gsd"
    path.write_bytes(DATA)
    with gsdata.open(path) as file:
        GaussianLoader(file, 4)
        file.codes()  # the caller's file stays open
    GaussianLoader(path, 4)
    with pytest.raises(IndexError):
        GaussianLoader(path, 4, indices=[99])
    gc.collect()
    if sys.platform.startswith("linux"):
        held = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert str(path) not in held


def test_no_thread_outlives_an_iteration():
    loader = GaussianLoader(DATA, 2)
    for _ in loader:
        assert len(threads_of_loaders()) == 1
        break
    assert threads_of_loaders() == []
    list(loader)
    assert threads_of_loaders() == []
    kept = iter(loader)
    assert threads_of_loaders() == [], "nothing runs before a batch is asked for"
    next(kept)
    kept.close()
    assert threads_of_loaders() == []


def test_what_fails_ahead_fails_where_it_is_asked_for(monkeypatch):
    loader = GaussianLoader(DATA, 4, prefetch=3)
    render, calls = loader._images.render, []

    def failing(*rows):
        calls.append(rows)
        if len(calls) == 2:
            raise RuntimeError("the second batch")
        return render(*rows)

    monkeypatch.setattr(loader._images, "render", failing)
    batches = iter(loader)
    assert len(next(batches)[0]) == 4
    with pytest.raises(RuntimeError, match="the second batch"):
        next(batches)
    assert threads_of_loaders() == []
    assert loader.state_dict()["images_done"] == 4


def test_batches_are_made_while_one_is_used(monkeypatch):
    loader = GaussianLoader(DATA, 2, prefetch=2)
    render, calls = loader._images.render, []
    monkeypatch.setattr(loader._images, "render", lambda *rows: calls.append(rows) or render(*rows))
    batches = iter(loader)
    next(batches)
    deadline = time.monotonic() + 10
    while len(calls) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(calls) == 3, "the one in use and two ahead, no more"


def _child(batches, loader, results):
    try:
        next(batches)
    except RuntimeError as error:
        results.put(str(error))
    results.put(torch.cat([images for images, _ in loader]).numpy())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork():
    loader = GaussianLoader(DATA, 2, size=64)
    expected = torch.cat([images for images, _ in loader])
    running = iter(loader)
    next(running)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_child, args=(running, loader, results))
    child.start()
    assert "began in another process" in results.get()
    np.testing.assert_array_equal(results.get(), expected.numpy())
    child.join(60)
    assert child.exitcode == 0
    assert len(list(running)) == len(loader) - 1, "the parent's goes on"


def test_control_c_and_the_end_of_the_process(tmp_path):
    path = tmp_path / "set.gsd"
    path.write_bytes(DATA)
    code = (
        "import os, signal\n"
        "from gsdata import GaussianLoader\n"
        f"loader = GaussianLoader({str(path)!r}, 2)\n"
        "kept = iter(loader); next(kept)\n"
        "for number, batch in enumerate(loader):\n"
        "    if number == 2: os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -2, done.stderr
    assert done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.gpu
def test_on_a_gpu():
    options = {"size": 40, "shuffle": True, "normalize": True}
    expected = list(GaussianLoader(DATA, 3, **options))
    for ahead in (0, 1, 3):
        loader = GaussianLoader(DATA, 3, device="cuda", prefetch=ahead, **options)
        for (images, targets), (others, same_targets) in zip(loader, expected, strict=True):
            assert images.device.type == targets.device.type == "cuda"
            torch.testing.assert_close(images.cpu(), others, atol=2e-3, rtol=1e-4)
            assert torch.equal(targets.cpu(), same_targets)
