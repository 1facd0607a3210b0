from __future__ import annotations

import time

import pytest

from gsdata_tools import progress


def test_off_a_terminal_there_are_few_lines_and_a_closing_one(capsys):
    with progress.Progress(1000, "encode") as bar:
        for done in range(1001):
            bar.update(done, psnr=20 + done / 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["encode 1,000/1,000, psnr 30, 0:00 elapsed"]


def test_lines_say_how_long_it_takes(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = progress.Progress(200, "distil")
    for done in (100, 110, 120):  # a resumed run: the first hundred cost nothing
        bar.update(done)
        now[0] += 11
    bar.update(130)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "distil 130/200, 0:33 elapsed, about 1:17 left"
    assert len(lines) == 3
    bar.close()
    bar.close()
    assert capsys.readouterr().err.splitlines() == ["distil 130/200, 0:33 elapsed"]


def test_quiet_shows_nothing(capsys):
    with progress.Progress(3, "encode", quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")


def test_unknown_totals(capsys):
    with progress.Progress(None, "step") as bar:
        bar.update(5)
    assert capsys.readouterr().err == "step 5, 0:00 elapsed\n"


def test_a_bar_on_a_terminal_goes_away_before_the_closing_line(capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.Progress(3, "encode") as bar:
        assert bar._bar is not None
        bar.update(2, psnr=1.0)
        assert bar._bar.tasks[0].completed == 2
    assert bar._bar.finished or not bar._bar.live.is_started
    assert capsys.readouterr().err.endswith("encode 2/3, psnr 1, 0:00 elapsed\n")


def test_clock():
    assert progress.clock(75) == "1:15"
    assert progress.clock(7260) == "2:01:00"
    assert progress.clock(0.4) == "0:00"


def test_deadlines(monkeypatch):
    assert not progress.Deadline(None).expired()
    assert progress.Deadline(None).remaining() == float("inf")
    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    deadline = progress.Deadline(2.0)
    assert deadline.remaining() == 2.0
    now[0] = 6.5
    assert not deadline.expired()
    now[0] = 7.0
    assert deadline.expired()
    assert deadline.remaining() == 0.0
