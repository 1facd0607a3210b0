from __future__ import annotations

import json
import sys
import types

import pytest

import gsdata
from gsdata_tools import demo


@pytest.fixture
def commands(monkeypatch):
    """Stand-ins for the commands: what they were called with, and what each exits with."""
    calls, codes = [], {}

    def stand_in(name):
        def main(argv):
            calls.append((sys.argv[0], argv))
            return codes.get(name, 0)

        return types.SimpleNamespace(main=main)

    modules = {f"stand_in_{name}": stand_in(name) for name in ("one", "two", "three")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(demo, "_MODULES", {f"gsd-{name.removeprefix('stand_in_')}": name for name in modules})
    return calls, codes


PLAN = [("First.", ["gsd-one", "a b"]), ("Second.", ["gsd-two"]), ("Third.", ["gsd-three", "--x"])]


def test_each_command_is_shown_as_one_would_type_it_and_run_under_its_own_name(commands, capsys):
    calls, _ = commands
    before = sys.argv
    assert demo.perform(PLAN) == 0
    assert calls == [("gsd-one", ["a b"]), ("gsd-two", []), ("gsd-three", ["--x"])]
    assert sys.argv is before
    shown = [line for line in capsys.readouterr().out.splitlines() if line]
    assert shown == ["[1/3] First.", "$ gsd-one 'a b'", "[2/3] Second.", "$ gsd-two", "[3/3] Third.", "$ gsd-three --x"]


def test_it_stops_at_the_first_command_that_fails_with_its_exit_code(commands):
    calls, codes = commands
    codes["two"] = 130
    assert demo.perform(PLAN) == 130
    assert [name for name, _ in calls] == ["gsd-one", "gsd-two"]


def test_a_file_where_its_folder_should_be_is_one_line_and_exit_2(tmp_path, capsys):
    (tmp_path / "demo").write_text("mine")
    assert demo.main([str(tmp_path / "demo")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "demo").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_demo_twice_over_the_same_folder(tmp_path, capsys):
    folder = tmp_path / "demo"
    for _ in range(2):
        assert demo.main([str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert 0.98 * 31_360 <= (folder / "digits.gsd").stat().st_size <= 31_360
    with gsdata.open(folder / "digits.gsd") as file:
        file.verify()
        assert file.size == (28, 28)
        assert sorted(set(file.labels.tolist())) == list(range(10))
    assert (folder / "digits-sheet.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "digits-eval.json").read_text())
    assert set(found["baselines"]) == {"random-gsd", "webp", "jpeg"}
    for entry in (found, *found["baselines"].values()):
        assert entry["bytes_total"] <= found["bytes_total"] <= 31_360
        assert entry["accuracy"]["mean"] > 80
