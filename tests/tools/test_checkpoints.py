from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp

from gsdata.atomic import write_atomically
from gsdata.errors import GsdError
from gsdata_tools.checkpoints import Checkpoint
from gsdata_tools.usage import UsageError

ARRAYS = {
    "means": np.arange(6, dtype=np.float32).reshape(3, 2),
    "step": np.int64(7),
    "a/b": np.zeros((0, 4), np.uint16),
}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "x.ckpt"
    Checkpoint(path, {"steps": 3}).save("state", ARRAYS, {"note": "é", "steps": [1, 2.5, None]})
    arrays, meta = Checkpoint(path, {"steps": 3}, resume=True).load("state")
    assert meta == {"note": "é", "steps": [1, 2.5, None]}
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(arrays[name], array)
    with np.load(path / "state.npz", allow_pickle=False) as again:
        np.testing.assert_array_equal(again["means"], ARRAYS["means"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_any_array_survives(tmp_path, array):
    if array.dtype.kind in "mM":
        return
    checkpoint = Checkpoint(tmp_path / "x.ckpt")
    checkpoint.save("state", {"a": array})
    loaded = checkpoint.load("state")[0]["a"]
    assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_names_remove_and_delete(tmp_path):
    path = tmp_path / "x.ckpt"
    checkpoint = Checkpoint(path)
    assert not path.exists(), "nothing is made before there is something to keep"
    assert (checkpoint.names(), checkpoint.resuming) == ([], False)
    checkpoint.save("b", {})
    checkpoint.save("a.1", {})
    assert (checkpoint.names(), checkpoint.resuming) == (["a.1", "b"], True)
    checkpoint.remove("b")
    checkpoint.remove("b")
    assert checkpoint.names() == ["a.1"]
    with pytest.raises(KeyError):
        checkpoint.load("b")
    checkpoint.delete()
    assert not path.exists()


def test_starting_again_removes_what_was_there_but_not_what_others_put_there(tmp_path):
    path = tmp_path / "x.ckpt"
    Checkpoint(path, {"steps": 3}).save("state", ARRAYS)
    (path / "mine.txt").write_text("keep")
    assert Checkpoint(path, {"steps": 4}).names() == []
    assert [entry.name for entry in path.iterdir()] == ["mine.txt"]


def test_resuming_with_other_options_names_the_option(tmp_path):
    path = tmp_path / "x.ckpt"
    options = {"data": "cifar10", "time_steps": 200, "size": None, "rate": 0.5, "pair": (1, 2)}
    Checkpoint(path, options).save("state", ARRAYS)
    Checkpoint(path, options, resume=True)
    with pytest.raises(UsageError, match="--time-steps 200, this command has 300"):
        Checkpoint(path, {**options, "time_steps": 300}, resume=True)
    with pytest.raises(UsageError, match=r"--size \(not given\), this command has 64"):
        Checkpoint(path, {**options, "size": 64}, resume=True)
    with pytest.raises(UsageError, match=r"--extra \(not given\), this command has true"):
        Checkpoint(path, {**options, "extra": True}, resume=True)


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path):
    checkpoint = Checkpoint(tmp_path / "x.ckpt")
    checkpoint.save("state", {"a": np.arange(4, dtype=np.uint8)}, {"step": 3})
    file = tmp_path / "x.ckpt" / "state.npz"
    whole = file.read_bytes()
    for end in range(0, len(whole), 7):
        file.write_bytes(whole[:end])
        with pytest.raises(GsdError, match=r"damaged checkpoint file .*--force"):
            checkpoint.load("state")
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            arrays, meta = checkpoint.load("state")
        except GsdError:
            continue
        assert meta == {"step": 3}, f"byte {place}"
        assert arrays["a"].tolist() == [0, 1, 2, 3], f"byte {place}"


def test_damaged_options(tmp_path):
    path = tmp_path / "x.ckpt"
    Checkpoint(path, {"steps": 3}).save("state", ARRAYS)
    (path / "options.json").write_text("{")
    with pytest.raises(GsdError, match=r"options.json: damaged"):
        Checkpoint(path, {"steps": 3}, resume=True)


def test_options_that_are_gone(tmp_path):
    path = tmp_path / "x.ckpt"
    Checkpoint(path, {"steps": 3}).save("state", ARRAYS)
    (path / "options.json").unlink()
    with pytest.raises(GsdError, match=r"options.json: damaged .*--force without --resume"):
        Checkpoint(path, {"steps": 3}, resume=True)
    assert Checkpoint(path, {"steps": 3}).names() == []


def test_a_state_of_another_run_or_name_is_never_loaded(tmp_path):
    one, other = (Checkpoint(tmp_path / f"{seed}.ckpt", {"seed": seed}) for seed in (1, 2))
    for checkpoint in (one, other):
        checkpoint.save("state", ARRAYS)
        checkpoint.save("block-0", ARRAYS)
    shutil.copy(other.path / "state.npz", one.path)
    with pytest.raises(GsdError, match=r"state.npz: damaged .*another run"):
        one.load("state")
    shutil.copy(one.path / "block-0.npz", one.path / "block-1.npz")
    with pytest.raises(GsdError, match=r"block-1.npz: damaged .*renamed"):
        one.load("block-1")
    assert one.load("block-0")[1] == {}


def test_a_folder_whose_removal_was_cut_short_holds_nothing(tmp_path, monkeypatch):
    """What is left may be less than what the left states rest on."""
    checkpoint = Checkpoint(tmp_path / "x.ckpt", {"steps": 3})
    for name in ("a", "b", "c"):
        checkpoint.save(name, ARRAYS)
    unlink, removed = os.unlink, []

    def stop(path, *others, **options):
        if len(removed) == 1:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, *others, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.delete()
    assert len(checkpoint.names()) == 2
    again = Checkpoint(tmp_path / "x.ckpt", {"steps": 3}, resume=True)
    assert (again.names(), again.path.exists()) == ([], False)
    again.save("a", ARRAYS)
    assert Checkpoint(tmp_path / "x.ckpt", {"steps": 3}, resume=True).names() == ["a"]


def test_objects_and_odd_names_are_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="Object arrays"):
        checkpoint.save("state", {"a": np.array([object()])})
    for name in ("../state", "", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="not a name"):
            checkpoint.save(name, {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "x.gsd"
    write_atomically(file, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
