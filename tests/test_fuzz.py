"""fuzz/: a short run finds nothing; planted faults are found, each under its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gsdata.file as gsdata_file
from gsdata import container, streams

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "fuzz"))
import oracle  # noqa: E402
import run as fuzz_run  # noqa: E402


def a_run(inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *fault: Any) -> Any:
    """A run with something of gsdata replaced: (module, name, by what)."""
    monkeypatch.setattr(fuzz_run, "FOUND", tmp_path / "found")
    run = fuzz_run.Run(5, False, tmp_path / "scratch")
    if fault:
        monkeypatch.setattr(*fault)
    while run.counts["inputs"] < inputs and not run.problems:
        run.one()
    return run


def test_a_short_run_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "fuzz" / "run.py", "--inputs", "400", "--seconds", "120"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "crashes 0; hangs 0; allocations 0; disagreements 0"
    assert "400 inputs: " in done.stdout


def test_shares_of_mutations(tmp_path, monkeypatch):
    run = a_run(200, tmp_path, monkeypatch)
    right = sum(run.counts[kind] for kind in ("repaired", "header", "codes"))
    assert right >= 100
    assert run.counts["header"] + run.counts["codes"] >= 50
    assert sum(run.rules.values()) >= run.counts["refused"] > 100


def test_a_crash_is_found(tmp_path, monkeypatch):
    run = a_run(1000, tmp_path, monkeypatch, container, "what_else", lambda data: 1 // 0)
    assert run.problems[0].startswith("crash: ")
    assert "ZeroDivisionError" in run.problems[0]
    (kept,) = (tmp_path / "found").glob("crash-*.gsd")
    assert run.oracle.read(kept.read_bytes()).problem == "crash"


def test_a_reader_that_is_too_kind_disagrees(tmp_path, monkeypatch):
    monkeypatch.setattr(oracle, "use", lambda *file: None)  # it would notice first
    unpack = streams.unpack

    def kind(raw: bytes, count: int, limit: int, bits: int, where: str) -> Any:
        return unpack(raw, count, 1 << 16 if "'labels'" in where else limit, bits, where)

    run = a_run(1500, tmp_path, monkeypatch, streams, "unpack", kind)
    assert run.problems[0].startswith("disagreement: ")


def test_memory_and_time_are_watched(monkeypatch):
    good = next((ROOT / "spec" / "vectors" / "valid").glob("labels-hard.gsd")).read_bytes()
    reader = oracle.Oracle()
    assert reader.read(good, trace=True).problem == ""
    original = gsdata_file.read_container

    def hungry(source: Any) -> Any:
        bytes(oracle.MEMORY + len(good) + 1000)
        return original(source)

    monkeypatch.setattr(gsdata_file, "read_container", hungry)
    assert reader.read(good, trace=True).problem == "allocation"
    monkeypatch.setattr(gsdata_file, "read_container", original)
    monkeypatch.setattr(oracle, "STOP", 0.2)

    def endless(source: Any) -> Any:
        while True:
            pass

    monkeypatch.setattr(gsdata_file, "read_container", endless)
    assert reader.read(good).problem == "hang"


def test_every_message_of_a_vector_has_its_rules() -> None:
    reader = oracle.Oracle()
    assert len(reader.rules) > 100
    for path in (ROOT / "spec" / "vectors" / "invalid").glob("*.gsd"):
        found = reader.read(path.read_bytes())
        assert found.rule, path
        assert " " not in found.rule, path
        assert not found.problem, path


@pytest.mark.slow
def test_the_guided_target_says_what_it_needs() -> None:
    try:
        import atheris  # noqa: F401
    except ModuleNotFoundError:
        done = subprocess.run([sys.executable, ROOT / "fuzz" / "guided.py"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "pip install 'gsdata[fuzz]'" in done.stderr
        pytest.skip("atheris: not installed")
    done = subprocess.run(
        [sys.executable, ROOT / "fuzz" / "guided.py", "-runs=1"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "\tDONE " in done.stderr
