"""Shards: what is written is what is read, the same groups are the same bytes, and what is damaged or missing is noticed."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
from gsdata.errors import FormatError, GsdError
from gsdata.shards import ShardSet, ShardWriter, shard_size, write_shard
from gsdata.testing import make_codes


def group(seed=0, images=3, classes=("a", "b"), **options):
    codes = make_codes(seed, [2] * images, **options)
    return gsdata.to_bytes(codes, labels=np.arange(images) % len(classes), classes=classes)


@pytest.fixture
def folder(tmp_path):
    """Two shards of 3 + 2 and 4 images."""
    where = tmp_path / "set"
    where.mkdir()
    write_shard(where, "val", 0, [3, 2], [group(0, 3), group(1, 2)], shards=2)
    write_shard(where, "val", 1, [4], [group(2, 4)], shards=2)
    return where


def test_what_is_written_is_read(folder):
    shards = ShardSet(folder)
    assert len(shards) == 9
    assert [path.name for path in shards.paths] == ["val-000000.tar", "val-000001.tar"]
    assert [g.key for g in shards.groups] == ["val-000000-0000", "val-000000-0001", "val-000001-0000"]
    assert [g.images for g in shards.groups] == [3, 2, 4]
    assert [g.read() for g in shards.groups] == [group(0, 3), group(1, 2), group(2, 4)]
    for file in shards.files():
        file.verify()
    assert "val-000001.tar:val-000001-0000.gsd" in file.path


def test_the_layout_is_that_of_the_document(folder):
    with tarfile.open(folder / "val-000000.tar", "r:") as archive:
        members = archive.getmembers()
        index = json.load(archive.extractfile(members[0]))
    assert [m.name for m in members] == ["__index__", "val-000000-0000.gsd", "val-000000-0001.gsd"]
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname) for m in members} == {(0o644, 0, 0, 0, "", "")}
    assert index == {
        "schema": "gsdata-shard/1", "shard": 0, "shards": 2, "groups": {"val-000000-0000": 3, "val-000000-0001": 2}
    }  # fmt: skip


def test_same_groups_same_bytes_and_the_predicted_size(folder, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    parts = [group(0, 3), group(1, 2)]
    path = write_shard(again, "val", 0, [3, 2], parts, shards=2)
    assert path.read_bytes() == (folder / "val-000000.tar").read_bytes()
    assert path.stat().st_size == shard_size("val", 0, [3, 2], [len(part) for part in parts], 2)
    assert not list(again.glob(".*"))


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield group(0, 3)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_shard(tmp_path, "val", 0, [3, 3], broken())
    with pytest.raises(ValueError, match=r"shorter|longer"):
        write_shard(tmp_path, "val", 0, [3, 3], [group(0, 3)])
    assert not list(tmp_path.iterdir())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 9))
def test_the_writer_fills_shards_and_loses_nothing(tmp_path_factory, images, shard_images):
    where = tmp_path_factory.mktemp("w")
    parts = [group(seed, n) for seed, n in enumerate(images)]
    with ShardWriter(where, "train", shard_images=shard_images) as writer:
        for number, part in enumerate(parts):
            writer.add(part if number % 2 else gsdata.open(part))
    shards = ShardSet(where)
    assert list(shards.paths) == writer.paths
    assert [g.read() for g in shards.groups] == parts
    of_shard = [sum(g.images for g in shards.groups if g.path == path) for path in shards.paths]
    assert all(n >= shard_images for n in of_shard[:-1])


def test_the_writer_takes_one_kind_of_image_and_no_second_set(tmp_path):
    with ShardWriter(tmp_path / "s", "train") as writer:
        writer.add(group(0))
        with pytest.raises(ValueError, match="channels"):
            writer.add(group(0, channels=1))
        with pytest.raises(ValueError, match="classes"):
            writer.add(group(0, classes=("a", "c")))
        with pytest.raises(GsdError):
            writer.add(b"nothing")
    with pytest.raises(FileExistsError, match="train-000000"):
        ShardWriter(tmp_path / "s", "train")
    with pytest.raises(ValueError, match="not a name"):
        ShardWriter(tmp_path / "s", "a.b")


def test_after_an_error_the_writer_leaves_the_last_shard_out(tmp_path):
    def write():
        with ShardWriter(tmp_path, "train", shard_images=3) as writer:
            for content in (group(0), group(1, 2), b"nothing"):
                writer.add(content)

    with pytest.raises(GsdError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.tar"]


def test_a_tar_of_other_tools_is_read(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("d/one.gsd", group(0, 2)), ("d/one.txt", b"text"), ("d/two.GSD", group(1, 1))):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5
            archive.addfile(member, io.BytesIO(data))
    shards = ShardSet(tmp_path / "x.tar")
    assert [(g.key, g.images) for g in shards.groups] == [("d/one", 2), ("d/two", 1)]
    assert shards.groups[1].read() == group(1, 1)


@pytest.mark.parametrize("cut", [0, 100, 700, 1100, -1, -512, -1024, -1500])
def test_a_cut_shard_is_noticed(folder, cut):
    path = folder / "val-000000.tar"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"val-000000\.tar"):
        ShardSet(folder)


def test_damage_in_a_group_is_noticed_when_it_is_read(folder):
    path = folder / "val-000001.tar"
    data = bytearray(path.read_bytes())
    offset = ShardSet(folder).groups[2].offset
    data[offset + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(GsdError, match=r"val-000001-0000\.gsd"):
        list(ShardSet(folder).files())


def change_index(path, **changes):
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]
    index = json.loads(members[0][1]) | changes
    with tarfile.open(path, "w") as archive:
        for name, data in [("__index__", json.dumps(index).encode()), *members[1:]]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "gsdata-shard/2"}, "gsdata-shard/2"),
        ({"groups": {"val-000001-0000": -1}}, "numbers of images"),
        ({"groups": {"val-000001-0000": True}}, "numbers of images"),
        ({"groups": {"other": 4}}, "index names"),
        ({"groups": []}, "numbers of images"),
        ({"shard": "1"}, "whole numbers"),
        ({"shard": 2}, "whole numbers"),
        ({"shards": 3}, "shard 2 is missing"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(folder, changes, message):
    change_index(folder / "val-000001.tar", **changes)
    with pytest.raises(FormatError, match=message):
        ShardSet(folder)


def test_an_index_that_miscounts_is_noticed_when_the_group_is_read(folder):
    change_index(folder / "val-000001.tar", groups={"val-000001-0000": 5})
    shards = ShardSet(folder)
    with pytest.raises(FormatError, match="holds 4 images"):
        shards.open(2)


def test_a_missing_shard_is_noticed_unless_shards_are_named(folder):
    (folder / "val-000001.tar").unlink()
    for source in (folder, str(folder / "*.tar")):
        with pytest.raises(FormatError, match="shard 1 is missing"):
            ShardSet(source)
    assert len(ShardSet(folder / "val-000000.tar")) == 5
    assert len(ShardSet([folder / "val-000000.tar"])) == 5
    with pytest.raises(FormatError, match="a group of that name"):
        ShardSet([folder / "val-000000.tar"] * 2)


def test_several_sets_in_a_folder_are_told_apart(folder):
    write_shard(folder, "train", 0, [2], [group(7, 2)])
    with pytest.raises(FormatError, match=r"train-\*\.tar"):
        ShardSet(folder)
    assert len(ShardSet(str(folder / "train-*.tar"))) == 2
    assert len(ShardSet(f"{folder}/val-*.tar")) == 9


def test_what_is_no_set_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no tar")
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    for source in ("empty", "none-*.tar", "text.tar", "none.tar", "missing"):
        with pytest.raises(FormatError) as caught:
            ShardSet(tmp_path / source)
        assert source.partition("*")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FormatError, match="no shards were given"):
        ShardSet([])


def test_groups_of_one_set_are_alike(tmp_path):
    write_shard(tmp_path, "val", 0, [3, 3], [group(0), group(1, size=(9, 9))])
    shards = ShardSet(tmp_path)
    shards.open(0)
    with pytest.raises(FormatError, match=r"val-000000-0001\.gsd: its size"):
        shards.open(1)


def test_shards_load_neither_torch_nor_numba(folder):
    from test_imports import python

    code = f"import sys; from gsdata.shards import ShardSet; [f.verify() for f in ShardSet({str(folder)!r}).files()]; print([m for m in ('torch', 'numba', 'webdataset') if m in sys.modules])"
    assert python(code) == "[]\n"
