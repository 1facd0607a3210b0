from __future__ import annotations

import numpy as np
import pytest

from gsdata_tools import sources
from gsdata_tools.usage import UsageError

Image = pytest.importorskip("PIL.Image")


def write(path, value: int, size=(4, 6)) -> None:
    """A flat image whose value tells which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def values(loaded) -> list[int]:
    return loaded.images[:, 0, 0, 0].tolist()


def pets(folder, base=0) -> None:
    for index, name in enumerate(["img1.png", "img2.png", "img10.png"]):
        write(folder / "dog" / name, base + 20 + index)
    write(folder / "cat" / "a.PNG", base + 10)
    write(folder / "cat" / "deep" / "b.bmp", base + 11)


def test_classes_are_interleaved_and_names_sorted_naturally(tmp_path):
    pets(tmp_path)
    (tmp_path / "dog" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "dog" / "notes.txt").write_bytes(b"no image")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    loaded = sources.load(str(tmp_path))
    assert loaded.classes == ("cat", "dog")
    assert loaded.labels.tolist() == [0, 1, 0, 1, 1]
    assert values(loaded) == [10, 20, 11, 21, 22]
    assert (loaded.split, loaded.name, loaded.images.shape) == ("all", tmp_path.name, (5, 4, 6, 3))
    assert values(sources.load(str(tmp_path), limit=3)) == [10, 20, 11]


def test_classes_are_numbered_as_torchvision_does(tmp_path):
    for name in ("n10", "n2", "n1"):
        write(tmp_path / name / "a.png", 1)
    assert sources.load(str(tmp_path)).classes == ("n1", "n10", "n2")


def test_images_without_classes(tmp_path):
    for value in (1, 2, 10):
        write(tmp_path / f"k{value}.png", value)
    (tmp_path / "empty").mkdir()
    loaded = sources.load(str(tmp_path))
    assert (values(loaded), loaded.labels.tolist(), loaded.classes) == ([1, 2, 10], [-1, -1, -1], ())


@pytest.mark.parametrize(
    ("folders", "wanted", "found", "base"),
    [
        (("train", "val"), None, "train", 0),
        (("train", "val"), "train", "train", 0),
        (("train", "val"), "val", "val", 100),
        (("train", "val"), "test", "val", 100),
        (("train", "valid"), "validation", "val", 100),
        (("Training", "validation"), "test", "val", 100),
        (("train", "test"), "test", "test", 100),
        (("train", "test", "notes"), "test", "test", 100),
    ],
)
def test_splits(folders, wanted, found, base, tmp_path):
    for index, name in enumerate(folders[:2]):
        pets(tmp_path / name, 100 * index)
    for name in folders[2:]:
        (tmp_path / name).mkdir()
    loaded = sources.load(str(tmp_path), split=wanted)
    assert (loaded.split, values(loaded)) == (found, [base + value for value in (10, 20, 11, 21, 22)])


def test_a_class_may_be_called_test(tmp_path):
    for name in ("test", "tube", "rack"):
        write(tmp_path / name / "a.png", 1)
    assert sources.load(str(tmp_path)).classes == ("rack", "test", "tube")


def test_class_numbers_are_those_of_the_training_split(tmp_path):
    pets(tmp_path / "train")
    write(tmp_path / "val" / "dog" / "a.png", 7)
    loaded = sources.load(str(tmp_path), split="val")
    assert (loaded.classes, loaded.labels.tolist()) == (("cat", "dog"), [1])
    write(tmp_path / "val" / "emu" / "a.png", 7)
    with pytest.raises(UsageError, match=r"emu: the training split has no class of this name"):
        sources.load(str(tmp_path), split="val")


def test_requests_that_cannot_be_met(tmp_path):
    pets(tmp_path / "plain")
    for split in ("test", "val"):
        with pytest.raises(UsageError, match="not divided into splits"):
            sources.load(str(tmp_path / "plain"), split=split)
    assert sources.load(str(tmp_path / "plain"), split="train").split == "all"
    pets(tmp_path / "both" / "train")
    pets(tmp_path / "both" / "test")
    with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
        sources.load(str(tmp_path / "both"), split="val")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="no images, class folders"):
        sources.load(str(tmp_path / "nothing"))
    (tmp_path / "plain" / "emu").mkdir()
    with pytest.raises(UsageError, match=r"emu: a class folder without images"):
        sources.load(str(tmp_path / "plain"))


def test_only_what_the_limit_needs_is_read(tmp_path):
    pets(tmp_path)
    (tmp_path / "dog" / "img10.png").write_bytes(b"broken")
    assert values(sources.load(str(tmp_path), limit=4)) == [10, 20, 11, 21]


@pytest.mark.data
def test_the_real_thing():
    loaded = sources.load("imagenette-128", split="test", limit=30)
    assert (loaded.images.shape, loaded.split) == ((30, 128, 128, 3), "val")
    assert loaded.labels.tolist() == [*range(10)] * 3
    assert "tench" in loaded.classes
