"""Sharded sets in training: every image once over processes and workers, and ``.gsd`` members in WebDataset pipelines."""

from __future__ import annotations

import collections
import io
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import gsdata
from gsdata.errors import FormatError, GsdError
from gsdata.recipe import Recipe
from gsdata.shards import ShardSet, ShardWriter, write_shard
from gsdata.testing import make_codes
from gsdata.wds import GaussianShards, decode

RECIPE = Recipe(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def make_set(folder, images, *, shard_images=4, recipe=RECIPE):
    """A set whose labels are the numbers of the images; groups of ``images``."""
    total, start = max(1, sum(images)), 0
    with ShardWriter(folder, "train", shard_images=shard_images) as writer:
        for number, count in enumerate(images):
            codes = make_codes(number, [2] * count)
            labels = np.arange(start, start + count)
            writer.add(gsdata.to_bytes(codes, labels=labels, class_count=total, recipe=recipe))
            start += count
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "set", [3, 2, 4, 1, 5])


def targets(items):
    return [int(target) for _, target, *_ in items]


def test_in_order_they_are_the_images_of_the_groups(folder):
    found = list(GaussianShards(folder, size=6, normalize=True, keys=True))
    expected, keys = [], []
    for group, file in zip(ShardSet(folder).groups, ShardSet(folder).files(), strict=True):
        expected += list(gsdata.GaussianDataset(file, size=6, normalize=True))
        keys += [f"{group.key}/{i}" for i in range(group.images)]
    assert [key for _, _, key in found] == keys
    assert targets(found) == list(range(15))
    for (image, _, _), (other, _) in zip(found, expected, strict=True):
        assert torch.equal(image, other)


def test_shuffled_they_are_the_same_images_under_the_same_keys(folder):
    by_key = {key: (image, target) for image, target, key in GaussianShards(folder, keys=True)}
    data = GaussianShards(folder, keys=True, shuffle=True, seed=3, window=2)
    orders = set()
    for epoch in range(4):
        data.set_epoch(epoch)
        found = list(data)
        assert collections.Counter(key for _, _, key in found) == collections.Counter(by_key.keys())
        for image, target, key in found:
            assert target == by_key[key][1]
            assert torch.equal(image, by_key[key][0])
        assert targets(found) == targets(data)
        orders.add(tuple(targets(found)))
    assert len(orders) == 4
    assert targets(GaussianShards(folder, shuffle=True, seed=4)) != targets(
        GaussianShards(folder, shuffle=True, seed=3)
    )


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    world=st.integers(1, 5),
    workers=st.integers(1, 4),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_readers_divide_the_images_exactly(tmp_path_factory, images, world, workers, epoch, shuffle):
    folder = make_set(tmp_path_factory.mktemp("s") / "set", images, shard_images=7)
    seen, lengths = [], []
    for rank in range(world):
        data = GaussianShards(folder, rank=rank, world_size=world, shuffle=shuffle, seed=1)
        of_rank = 0
        for worker in range(workers):
            parts = data._parts(rank * workers + worker, world * workers, epoch)
            rows = [tuple(row) for part in parts for row in data._rows(*part, epoch).tolist()]
            lengths.append(len(rows))
            of_rank += len(rows)
            seen += rows
        assert of_rank == len(data)
    assert sorted(seen) == [(number, image) for number, count in enumerate(images) for image in range(count)]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("ranks", "workers", "context"), [(3, 0, None), (2, 1, "fork"), (2, 2, "fork"), (1, 1, "spawn")]
)
def test_workers_and_processes_see_every_image_once(folder, ranks, workers, context):
    seen = []
    for rank in range(ranks):
        data = GaussianShards(folder, shuffle=True, rank=rank, world_size=ranks, output="uint8")
        loader = DataLoader(data, batch_size=2, num_workers=workers, multiprocessing_context=context)
        batches = list(loader)
        assert all(images.dtype == torch.uint8 for images, _ in batches)
        own = torch.cat([labels for _, labels in batches]).tolist()
        assert len(own) == len(data)
        seen += own
    assert sorted(seen) == list(range(15))


def test_workers_that_stay_are_told_the_epoch(folder):
    data = GaussianShards(folder, shuffle=True)
    loader = DataLoader(data, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        orders.append(targets(loader))
    assert orders[0] == orders[2] != orders[1]


def test_a_process_knows_its_place(folder, monkeypatch):
    assert len(GaussianShards(folder)) == 15
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = GaussianShards(folder)
    assert (data.rank, data.world_size, len(data)) == (1, 2, 8)
    assert targets(data) == list(range(7, 15))


@pytest.mark.parametrize(
    "options",
    [{"rank": 1}, {"world_size": 2}, {"rank": 2, "world_size": 2}, {"window": 0}, {"seed": -1}, {"output": "jpeg"}],
)
def test_what_cannot_be_is_refused(folder, options):
    with pytest.raises(ValueError, match="found"):
        GaussianShards(folder, **options)


def test_unknown_options_and_epochs_are_refused(folder):
    with pytest.raises(TypeError, match="zoom"):
        GaussianShards(folder, zoom=2)
    with pytest.raises(ValueError, match="epoch"):
        GaussianShards(folder).set_epoch(-1)


def test_normalising_needs_one_recipe(tmp_path):
    with ShardWriter(tmp_path, "train") as writer:
        for mean in (0.5, 0.6):
            recipe = Recipe(mean=(mean,) * 3, std=(0.2,) * 3)
            writer.add(gsdata.to_bytes(make_codes(0, [1, 1]), recipe=recipe))
    assert len(list(GaussianShards(tmp_path))) == 4
    with pytest.raises(ValueError, match="another recipe"):
        list(GaussianShards(tmp_path, normalize=True))


def test_clamping_by_the_recipe_needs_one_of_all_groups(tmp_path):
    with ShardWriter(tmp_path, "train") as writer:
        for clamp in (True, None):
            writer.add(gsdata.to_bytes(make_codes(0, [1, 1]), recipe=Recipe(clamp=clamp)))
    assert len(list(GaussianShards(tmp_path, clamp=True))) == 4
    with pytest.raises(ValueError, match="another recipe"):
        list(GaussianShards(tmp_path))


def test_damage_is_told_with_the_shard_and_the_group(folder):
    data = GaussianShards(folder)
    group = data.shards.groups[3]
    content = bytearray(group.path.read_bytes())
    content[group.offset + group.size - 1] ^= 255
    group.path.write_bytes(content)
    with pytest.raises(GsdError, match=rf"{group.path.name}:{group.key}\.gsd"):
        list(data)
    group.path.write_bytes(content[:1000])
    with pytest.raises(FormatError, match=r"ends .* bytes before"):
        list(data)


# --- in a WebDataset pipeline, which leaves its shards open -------------------------------------------------------------

unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def web(path, **options):
    return webdataset.WebDataset(str(path), shardshuffle=False, **options)


def tar_of(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@unclosed
def test_a_pipeline_yields_every_image_of_every_group(folder):
    paths = [str(path) for path in ShardSet(folder).paths]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False).compose(decode(size=(5, 7), normalize=True)))
    expected = list(GaussianShards(folder, size=(5, 7), normalize=True, keys=True))
    assert [sample["__key__"] for sample in samples] == [key for _, _, key in expected]
    assert [sample["cls"] for sample in samples] == targets(expected)
    for sample, (image, _, _) in zip(samples, expected, strict=True):
        assert torch.equal(sample["image"], image)
        assert "gsd" not in sample


@unclosed
def test_the_usual_stages_go_on_from_there(folder):
    pipeline = (
        web(ShardSet(folder).paths[0]).compose(decode(output="uint8")).shuffle(3).to_tuple("image", "cls").batched(2)
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=1)
    batches = list(loader)
    assert sorted(int(label) for _, labels in batches for label in labels) == list(range(5))
    assert batches[0][0].shape == (2, 3, 8, 8)
    assert batches[0][0].dtype == torch.uint8


def test_shards_as_the_first_stage(folder):
    pipeline = webdataset.DataPipeline(GaussianShards(folder, shuffle=True), webdataset.batched(4))
    assert sorted(int(label) for _, labels in pipeline for label in labels) == list(range(15))


@unclosed
def test_one_image_per_member_with_a_class_beside_it(tmp_path):
    single = [gsdata.to_bytes(make_codes(seed, [2])) for seed in range(3)]
    labelled = gsdata.to_bytes(make_codes(9, [2]), labels=[1], class_count=2)
    members = []
    for number, data in enumerate(single):
        members += [(f"{number}.gsd", data), (f"{number}.cls", b"%d\n" % (7 - number)), (f"{number}.txt", b"text")]
    members += [("3.gsd", labelled), ("3.cls", b"5"), ("4.txt", b"no image"), ("5.gsd", single[0])]
    path = tar_of(tmp_path / "x.tar", members)
    samples = list(web(path).compose(decode(target_transform=lambda target: target * 10)))
    assert [sample.get("cls") for sample in samples] == [70, 60, 50, 10, None, -10]
    assert [sample["__key__"] for sample in samples] == ["0/0", "1/0", "2/0", "3/0", "4", "5/0"]
    assert samples[0]["txt"] == b"text"
    decoded = list(web(path).decode(only="cls").compose(decode()))
    assert [sample.get("cls") for sample in decoded] == [7, 6, 5, 1, None, -1]


@unclosed
def test_soft_labels_and_an_empty_group(tmp_path):
    weights = np.array([[1.0, 3.0], [1.0, 0.0]])
    soft = gsdata.to_bytes(make_codes(0, [1, 1]), soft_labels=weights)
    empty = gsdata.to_bytes(make_codes(0, []), soft_labels=weights[:0])
    path = tar_of(tmp_path / "x.tar", [("a.gsd", soft), ("b.gsd", empty)])
    samples = list(web(path).compose(decode(labels="soft")))
    assert len(samples) == 2
    assert samples[0]["cls"].tolist() == pytest.approx([1 / 4, 3 / 4], abs=1e-3)
    assert len(list(GaussianShards(path, labels="soft"))) == 2


@unclosed
def test_a_bad_member_is_told_with_its_shard(tmp_path):
    path = tar_of(tmp_path / "x.tar", [("a.gsd", b"nothing")])
    with pytest.raises(GsdError, match=r"x\.tar:a\.gsd"):
        list(web(path).compose(decode()))


@unclosed
def test_our_writer_makes_what_the_pipeline_expects(tmp_path):
    path = write_shard(tmp_path, "val", 0, [2], [gsdata.to_bytes(make_codes(0, [1, 1]), labels=[1, 0])])
    assert [sample["__key__"] for sample in web(path)] == ["val-000000-0000"]
