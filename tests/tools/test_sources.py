from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsdata_tools import sources
from gsdata_tools.source_types import interleaved, natural, split_of_name
from gsdata_tools.usage import UsageError


@pytest.fixture
def npz(tmp_path):
    x = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1).repeat(4, axis=1).repeat(4, axis=2)
    y = np.array([0] * 20 + [1] * 8 + [2] * 2)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return str(tmp_path / "d.npz")


def values(loaded) -> list[int]:
    return loaded.images[:, 0, 0, 0].tolist()


def test_everything_and_the_first_n(npz, capsys):
    assert values(sources.load(npz)) == list(range(30))
    assert values(sources.load(npz, limit=7)) == list(range(7))
    assert capsys.readouterr() == ("", "")


def test_a_limit_beyond_the_end_uses_what_is_there_and_says_so(npz, capsys):
    assert values(sources.load(npz, limit=1000)) == list(range(30))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "d.npz: --limit 1,000, but there are 30 images; all of them are used\n"


def test_balanced_draws(npz):
    loaded = sources.load(npz, limit=12, balanced_seed=5)
    assert np.bincount(loaded.labels).tolist() == [5, 5, 2], "the third class has only two"
    assert len(set(values(loaded))) == 12
    assert values(sources.load(npz, limit=12, balanced_seed=5)) == values(loaded)
    assert values(sources.load(npz, limit=12, balanced_seed=6)) != values(loaded)
    assert values(sources.load(npz, limit=6, balanced_seed=5)) == values(loaded)[:6]
    assert np.bincount(sources.load(npz, limit=9, balanced_seed=5).labels[:6]).tolist() == [2, 2, 2]
    for value, label in zip(values(loaded), loaded.labels, strict=True):
        assert label == (value >= 20) + (value >= 28)


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 3))
def test_draws_are_as_even_as_they_can_be(labels, limit, seed):
    labels = np.array(labels)
    chosen = sources.choose(labels, limit, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(limit, len(labels))
    counts = {label: (labels[chosen] == label).sum() for label in np.unique(labels)}
    for label, count in counts.items():
        assert count == (labels == label).sum() or count >= max(counts.values()) - 1


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one(npz, limit):
    with pytest.raises(UsageError, match="expected at least 1"):
        sources.load(npz, limit=limit)


def test_sizes(npz):
    assert sources.load(npz, size=2).images.shape == (30, 2, 2, 1)
    assert sources.load(npz, size=(3, 6)).images.shape == (30, 3, 6, 1)
    with pytest.raises(UsageError, match="at least 1 pixel"):
        sources.load(npz, size=0)


def test_the_digest_is_what_it_is_said_to_be(npz):
    loaded = sources.load(npz, limit=5)
    content = struct.pack("<4Q", 5, 4, 4, 1) + loaded.images.tobytes() + struct.pack("<5q", *[0] * 5)
    assert loaded.digest == hashlib.sha256(content).hexdigest()
    assert sources.load(npz, limit=6).digest != loaded.digest


def test_built_in_names_say_where_they_are_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("GSDATA_DATA", raising=False)
    with pytest.raises(UsageError, match=r"export GSDATA_DATA=DIR, with DIR/cifar-10-batches-bin in it"):
        sources.load("cifar10")
    monkeypatch.setenv("GSDATA_DATA", str(tmp_path))
    for name, folder in (("cifar10", "cifar-10-batches-bin"), ("kodak", "kodak"), ("mnist", "mnist")):
        with pytest.raises(UsageError, match=f"there is no {folder} in "):
            sources.load(name)


def test_built_in_names_are_found_and_recorded(monkeypatch, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "kodak").mkdir()
    image.new("RGB", (6, 4)).save(tmp_path / "kodak" / "kodim01.png")
    monkeypatch.setenv("GSDATA_DATA", str(tmp_path))
    loaded = sources.load("kodak")
    assert (loaded.name, loaded.images.shape, loaded.split) == ("kodak", (1, 4, 6, 3), "all")


@pytest.mark.parametrize("spec", ["nowhere", "nowhere/at/all", "imagenet", ""])
def test_names_of_nothing(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        sources.load(spec)


def test_a_single_file_of_another_kind(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match="a single image goes into a folder"):
        sources.load(str(tmp_path / "a.png"))


def test_names_are_recorded_without_their_folders(npz, monkeypatch):
    assert sources.load(npz).name == "d.npz"


def test_natural_order():
    names = ["img10.png", "img2.png", "img1.png", "a", "img02.png", "2", "10", "img²"]
    assert sorted(names, key=natural) == ["2", "10", "a", "img1.png", "img02.png", "img2.png", "img10.png", "img²"]


def test_words_of_names():
    assert split_of_name("cifar-train-0000.tar") == "train"
    assert split_of_name("validation.parquet") == "val"
    assert split_of_name("strain-0.tar") is None
    assert split_of_name("TEST_1.tar") == "test"


def test_interleaving():
    assert interleaved(np.array([0, 0, 0, 1, 2, 2])).tolist() == [0, 3, 4, 1, 5, 2]
