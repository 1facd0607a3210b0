from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gsdata_tools import export_folder
from gsdata_tools.export_folder import check_file, check_folder, new_file, new_folder, write_index
from gsdata_tools.usage import UsageError


def an_export(folder: Path, force: bool = False) -> None:
    with new_folder(folder, force) as new:
        (new / "a.txt").write_text("new")
        write_index(new, {"schema": "gsd-export/1"})


def test_a_folder_is_there_in_full_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def half(error: type[BaseException]) -> None:
        with new_folder(out) as new:
            (new / "a.txt").write_text("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            half(error)
        assert list(tmp_path.iterdir()) == []
    an_export(out)
    assert sorted(entry.name for entry in out.iterdir()) == ["a.txt", "export.json"]
    with pytest.raises(ValueError):
        half(ValueError)
    assert (out / "a.txt").read_text() == "new"  # the earlier one stays
    with new_folder(out, force=True) as new:
        write_index(new, {"schema": "gsd-export/1"})
    assert [entry.name for entry in out.iterdir()] == ["export.json"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_export_is_replaced_in_one_step_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    an_export(out)
    for exchanged in (True, False):
        with monkeypatch.context() as patch:
            if exchanged and sys.platform.startswith("linux"):
                patch.setattr(export_folder, "_replace", lambda *_: pytest.fail("two steps"))
            else:
                patch.setattr(export_folder, "_exchange", lambda *_: False)
            with new_folder(out, force=True) as new:
                (new / f"{exchanged}.txt").write_text("new")
                write_index(new, {"schema": "gsd-export/1"})
        assert sorted(entry.name for entry in out.iterdir()) == [f"{exchanged}.txt", "export.json"]
        assert list(tmp_path.iterdir()) == [out]


def test_what_appears_meanwhile_stays(tmp_path: Path) -> None:
    def meanwhile(force: bool) -> None:
        with new_folder(tmp_path / "out", force) as new:
            (new / "a.txt").write_text("new")
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "mine.txt").write_text("mine")

    def meanwhile_a_file() -> None:
        with new_file(tmp_path / "x.npz") as new:
            new.write_text("new")
            (tmp_path / "x.npz").write_text("mine")

    for force in (False, True):
        with pytest.raises(UsageError):
            meanwhile(force)
    with pytest.raises(UsageError):
        meanwhile_a_file()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert (tmp_path / "x.npz").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "x.npz"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    an_export(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").exists()


def test_force_replaces_exports_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_folder(out, force=False)
    out.mkdir()
    check_folder(out, force=False)
    an_export(out)
    with pytest.raises(UsageError, match="--force replaces"):
        check_folder(out, force=False)
    check_folder(out, force=True)
    for content in ('{"schema": "other/1"}', "[]", "no JSON", '{"schema": null}'):
        (out / "export.json").write_text(content)
        with pytest.raises(UsageError, match="something else than an export"):
            check_folder(out, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", force=True)
    with pytest.raises(UsageError, match="there is no folder"):
        check_folder(tmp_path / "no" / "out", force=True)


def test_a_file_is_there_in_full_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "x.npz"

    def half() -> None:
        with new_file(out) as new:
            new.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []
    with new_file(out) as new:
        new.write_text("all")
    assert out.read_text() == "all"
    check_file(out, True, ".npz")
    with pytest.raises(UsageError, match="--force overwrites"):
        check_file(out, False, ".npz")
    with pytest.raises(UsageError, match=r"must end in \.npz"):
        check_file(tmp_path / "x", False, ".npz")
    with pytest.raises(UsageError, match="there is no folder"):
        check_file(tmp_path / "no" / "x.npz", False, ".npz")
