from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from gsdata.errors import GsdError
from gsdata_tools import sources
from gsdata_tools.usage import UsageError

Image = pytest.importorskip("PIL.Image")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path, members, mode="w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def samples(*numbers, label=lambda number: number % 3):
    """Label before the image for some, after it for others, as shards in the wild have it."""
    for number in numbers:
        pair = [(f"s/{number:04d}.png", png(number)), (f"s/{number:04d}.cls", str(label(number)).encode())]
        yield from pair if number % 2 else reversed(pair)
        yield f"s/{number:04d}.json", b"{}"


def values(loaded) -> list[int]:
    return loaded.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")]
)
def test_one_tar(name, mode, tmp_path):
    tar(tmp_path / name, samples(5, 1, 3, 2), mode)
    loaded = sources.load(str(tmp_path / name))
    assert (values(loaded), loaded.labels.tolist()) == ([5, 1, 3, 2], [2, 1, 0, 2])
    assert (loaded.classes, loaded.split) == (("0", "1", "2"), "all")
    drawn = sources.load(str(tmp_path / name), limit=3, balanced_seed=1)
    assert sorted(drawn.labels.tolist()) == [0, 1, 2]
    for value, label in zip(values(drawn), drawn.labels, strict=True):
        assert value % 3 == label


@pytest.mark.parametrize("pattern", ["s-{00..11}.tar", "s-*.tar", "."])
def test_many_tars_in_order(pattern, tmp_path):
    for shard in range(12):
        tar(tmp_path / f"s-{shard:02d}.tar", samples(2 * shard, 2 * shard + 1))
    loaded = sources.load(str(tmp_path / pattern))
    assert values(loaded) == list(range(24))
    assert sources.load(str(tmp_path / pattern), limit=1).classes == ("0", "1", "2"), "of all, not of the first"


def test_splits_are_words_of_the_names(tmp_path):
    tar(tmp_path / "pets-train-0.tar", samples(1, 2))
    tar(tmp_path / "pets-train-1.tar", samples(3))
    tar(tmp_path / "pets-val-0.tar", samples(4))
    assert values(sources.load(str(tmp_path))) == [1, 2, 3]
    loaded = sources.load(str(tmp_path), split="test")
    assert (values(loaded), loaded.split) == ([4], "val")
    tar(tmp_path / "more.tar", samples(5))
    with pytest.raises(UsageError, match=r"more\.tar is not"):
        sources.load(str(tmp_path))


def test_split_folders_of_tars(tmp_path):
    for index, name in enumerate(("train", "val")):
        (tmp_path / name).mkdir()
        tar(tmp_path / name / "0.tar", samples(index + 1))
    loaded = sources.load(str(tmp_path), split="val")
    assert (values(loaded), loaded.split) == ([2], "val")


def test_paths_and_links_in_a_tar_are_only_names(tmp_path):
    tar(
        tmp_path / "a.tar",
        [("../../evil.png", png(1)), ("/abs.png", png(2)), ("link.png", None), (".png", png(3)), ("b.txt", b"x")],
    )
    before = sorted(tmp_path.rglob("*"))
    loaded = sources.load(str(tmp_path / "a.tar"))
    assert (values(loaded), loaded.labels.tolist(), loaded.classes) == ([1, 2], [-1, -1], ())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([("a.png", png(1)), ("a.cls", b"cat")], GsdError, r"a\.cls holds b'cat'; expected a class number"),
        ([("a.png", png(1)), ("a.cls", b"-1")], GsdError, r"a\.cls holds"),
        ([("a.png", png(1)), ("a.cls", "²".encode())], GsdError, r"a\.cls holds"),
        ([("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(2))], GsdError, "b has no label, unlike"),
        ([("a.png", png(1)), ("a.jpg", png(2))], GsdError, "two images of the same key"),
        ([("a.txt", b"x")], UsageError, "no images in it"),
        ([("a.png", b"broken")], GsdError, r"a\.tar:a\.png: not an image"),
    ],
)
def test_wrong_tars(members, error, message, tmp_path):
    tar(tmp_path / "a.tar", members)
    with pytest.raises(error, match=message):
        sources.load(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_every_cut_of_a_tar_is_noticed(name, mode, tmp_path):
    tar(tmp_path / name, samples(1, 2, 3), mode)
    whole = (tmp_path / name).read_bytes()
    content = 512 * 2 * 9
    assert not any(whole[content:]) or mode != "w"
    for end in range(0, content, 100) if mode == "w" else range(0, len(whole), 30):
        (tmp_path / name).write_bytes(whole[:end])
        with pytest.raises(GsdError, match="tar archive"):
            sources.load(str(tmp_path / name))


def test_a_damaged_header_in_the_middle_is_noticed(tmp_path):
    tar(tmp_path / "a.tar", samples(1, 2, 3))
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    whole[512 * 2 * 6 + 3] ^= 1  # the third image's name
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(GsdError, match=r"cut off or damaged after 6,144 bytes"):
        sources.load(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("s-{0..2}.tar", r"s-1\.tar: no such file"),
        ("x-*.tar", "no file matches"),
        ("s-{2..0}.tar", "counts no files"),
        ("s-{0..99999999}.tar", "counts no files, or more than"),
        ("*.txt", "is no tar"),
    ],
)
def test_patterns_that_name_nothing(spec, message, tmp_path):
    tar(tmp_path / "s-0.tar", samples(1))
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=message):
        sources.load(str(tmp_path / spec))


def parquet(path, columns, features=None, rows_per_group=2) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True, parents=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows_per_group)


def structs(*numbers):
    return [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]


NAMED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "emu"]}}


@pytest.mark.parametrize("inner", ["", "data"])
def test_hugging_face_folders(inner, tmp_path):
    folder = tmp_path / inner
    parquet(folder / "train-00000-of-00002.parquet", {"image": structs(1, 2, 3), "label": [0, 1, 0]}, NAMED)
    parquet(folder / "train-00001-of-00002.parquet", {"image": structs(4, 5), "label": [1, 0]}, NAMED)
    parquet(folder / "test-00000-of-00001.parquet", {"image": structs(6), "label": [1]}, NAMED)
    train = sources.load(str(tmp_path))
    assert (values(train), train.labels.tolist()) == ([1, 2, 3, 4, 5], [0, 1, 0, 1, 0])
    assert (train.classes, train.split) == (("cat", "dog", "emu"), "train")
    test = sources.load(str(tmp_path), split="test")
    assert (values(test), test.labels.tolist(), test.classes) == ([6], [1], ("cat", "dog", "emu"))
    assert values(sources.load(str(tmp_path), limit=4)) == [1, 2, 3, 4]
    drawn = sources.load(str(tmp_path), limit=3, balanced_seed=0)
    for value, label in zip(values(drawn), drawn.labels, strict=True):
        assert label == (value + 1) % 2


def test_parquet_without_metadata_or_labels(tmp_path):
    file = tmp_path / "a.parquet"
    parquet(file, {"id": [7, 8], "img": [png(1), png(2)], "fine_label": [2, 0]})
    loaded = sources.load(str(file))
    assert (values(loaded), loaded.labels.tolist(), loaded.classes) == ([1, 2], [2, 0], ("0", "1", "2"))
    parquet(file, {"id": [7, 8], "img": [png(1), png(2)]})
    loaded = sources.load(str(file))
    assert (loaded.labels.tolist(), loaded.classes) == ([-1, -1], ())


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        (
            {"image": [{"bytes": None, "path": "/etc/passwd"}], "label": [0]},
            NAMED,
            r"row 0: no image bytes .* not followed",
        ),
        ({"image": ["/etc/passwd"], "label": [0]}, NAMED, "no column of images .* found image, label"),
        ({"image": structs(1), "label": [3]}, NAMED, "image 0 has label 3; expected 0 to 2"),
        ({"image": structs(1, 2), "label": [0, None]}, NAMED, "1 rows have no value in the column 'label'"),
        ({"image": [{"bytes": b"broken", "path": ""}], "label": [0]}, NAMED, "row 0: not an image"),
    ],
)
def test_wrong_parquet(columns, features, message, tmp_path):
    parquet(tmp_path / "a.parquet", columns, features)
    with pytest.raises(GsdError, match=message):
        sources.load(str(tmp_path / "a.parquet"))


def test_damaged_parquet(tmp_path):
    file = tmp_path / "a.parquet"
    parquet(file, {"image": structs(1, 2, 3), "label": [0, 1, 2]}, NAMED)
    whole = file.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-1], whole[:300], b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(damaged)
        with pytest.raises(GsdError, match=r"a\.parquet: not a readable parquet file"):
            sources.load(str(file))
    for place in range(8, 400, 13):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            sources.load(str(file))
        except GsdError as error:
            assert str(error).startswith(str(file))  # noqa: PT017 - not every change is an error
