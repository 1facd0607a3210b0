"""fuzz/: a short run finds nothing; planted faults are found, each under its name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gsdata.file as gsdata_file
from gsdata import byte_source, container, streams
from gsdata.errors import GsdError
from gsdata.quantize import Quantizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "fuzz"))
import oracle  # noqa: E402
import run as fuzz_run  # noqa: E402
import writing  # noqa: E402


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


def test_a_reader_that_takes_too_long_is_a_hang(tmp_path, monkeypatch):
    run = a_run(0, tmp_path, monkeypatch)
    run.judge("spec/js", (1.5, "refused FormatError"), oracle.SLOW, "refused", b"slow")
    run.judge("spec/reader.py", (1.5, "refused FormatError"), oracle.SLOW_READER, "refused", b"not slow")
    assert (run.counts["hang"], run.slowest) == (1, {"spec/js": 1.5, "spec/reader.py": 1.5})
    assert run.problems[0].startswith("hang: ")
    monkeypatch.setattr(oracle, "STOP", 0.2)

    def endless(data: bytes) -> Any:
        while True:
            pass

    monkeypatch.setattr(oracle.reader, "describe", endless)
    assert oracle.by_reader(b"")[1].startswith("hang: ")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(
    ("fault", "said"), [("process.exit(3)", "crash node ended with 3"), ("for (;;);", "hang: stopped after")]
)
def test_what_ends_node_is_told_and_the_files_after_it_are_read(fault, said, tmp_path, monkeypatch):
    (tmp_path / "fuzz").mkdir()
    (tmp_path / "spec").symlink_to(ROOT / "spec")
    script = (ROOT / "fuzz" / "verdicts.mjs").read_text()
    script = script.replace("function verdict(data) {", f"function verdict(data) {{\n  if (data[0] === 66) {fault}\n")
    (tmp_path / "fuzz" / "verdicts.mjs").write_text(script)
    monkeypatch.setattr(oracle, "__file__", str(tmp_path / "fuzz" / "oracle.py"))
    answers = oracle.by_javascript([b"no", b"Bad", b"no"], timeout=5)
    assert [answer.split(":")[0].split(" ")[0] for _, answer in answers] == [
        "refused",
        said.split(":")[0].split(" ")[0],
        "refused",
    ]
    assert answers[1][1].startswith(said)


def test_a_run_is_saved_ends_by_itself_and_tells_of_a_process_that_died(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz_run, "FOUND", tmp_path)
    monkeypatch.setattr(fuzz_run, "SAVED", 0.0)
    monkeypatch.setattr(fuzz_run, "TOLD", 0.0)
    report = fuzz_run.fuzz(1, 60, 41, 2, False, tmp_path / "report.json")
    assert report["counts"]["inputs"] == 41
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert " inputs, 0 problems" in capsys.readouterr().err
    monkeypatch.setattr(fuzz_run.Run, "one", lambda self: os._exit(7))
    report = fuzz_run.fuzz(1, 60, 41, 2, False)
    assert report["problems"][1].startswith("crash: a process ended with 7")


def test_the_first_ctrl_c_ends_a_run_with_its_report(tmp_path):
    command = [
        sys.executable,
        ROOT / "fuzz" / "run.py",
        "--no-javascript",
        "--seconds",
        "200",
        "--json",
        tmp_path / "a.json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while not (fuzz_run.FOUND / f"{run.pid}-0").exists():
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, "stopping; once more: at once\n")
    assert output.splitlines()[-1] == "crashes 0; hangs 0; allocations 0; disagreements 0"
    assert json.loads((tmp_path / "a.json").read_text())["counts"]["inputs"] > 0


@pytest.mark.parametrize("name", writing.TARGETS)
def test_properties_of_writing(name: str) -> None:
    writing.run(4, 1, (name,))


@pytest.mark.parametrize(
    ("name", "home", "part", "fault"),
    [
        (
            "quantizers_are_those_of_the_second_reader",
            Quantizer,
            "encode",
            lambda self, values: np.searchsorted(self.thresholds, values, side="left"),
        ),
        ("parts_of_a_file_make_it_up", streams.Labels, "select", lambda self, indices: self),
        ("a_file_is_the_same_wherever_it_is_read_from", byte_source.FileSource, "close", lambda self: None),
        ("containers_keep_their_sections", container, "ZSTD_MAGIC", b"none"),
        ("a_path_is_refused_as_its_bytes_are", byte_source.MemorySource, "read", lambda self, at, length: self.data),
        ("codes_agree_with_their_quantizers", writing, "concatenate", lambda parts: parts[-1]),
    ],
)
def test_properties_of_writing_can_fail(name, home, part, fault, monkeypatch):
    monkeypatch.setattr(home, part, fault)
    with pytest.raises((AssertionError, LookupError, ValueError, GsdError, ExceptionGroup)):
        writing.run(40, 1, (name,), shrink=False)


def test_too_few_branches_are_told(capsys):
    branches = pytest.importorskip("branches", reason="needs coverage.py")
    rest = {"missing_lines": [], "summary": {"covered_branches": 50, "num_branches": 50}, "missing_branches": []}
    report = {"files": {name: dict(rest) for name in branches.MODULES}}
    assert branches.show(report)
    report["files"]["file.py"] |= {
        "summary": {"covered_branches": 48, "num_branches": 50},
        "missing_branches": [[1, -1]],
    }
    assert not branches.show(report)
    assert "file.py: 96.0 % of 50 branches" in capsys.readouterr().out


@pytest.mark.slow
def test_vectors_and_fuzzing_reach_the_branches() -> None:
    pytest.importorskip("coverage", reason="needs coverage.py")
    done = subprocess.run([sys.executable, ROOT / "fuzz" / "branches.py"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
