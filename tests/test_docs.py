"""The documents are true: their commands and snippets run (with less work than they ask for), their options and links exist."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gsdata
from gsdata.quantize import fit_quantizers, quantize

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ["README.md", "docs/budget.md", "docs/commands.md"]
DOCUMENTS = [*sorted(ROOT.glob("[A-Z]*.md")), *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
# What each command and each verb gets in addition, so that it does everything that is documented but little of it.
LESS = {
    "gsd-encode": "--limit 20 --steps 30",
    "gsd-distill": "--model ConvNet-D1 --limit 60 --iterations 2 --fit-steps 20",
    "gsd-distill dm": "--pretrain 1 1 --batch-real 6",
    "gsd-distill dc": "--pretrain 1 1 --batch-real 6",
    "gsd-experts": "--model ConvNet-D1 --limit 60 --experts 1 --epochs 2",
    "gsd-eval": "--model ConvNet-D1 --steps 1 --seeds 1 --limit 20",
    "gsd-inspect": "",
}
SMALLER = {"--ipc 1": "--bytes 3000"}


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def shell_lines(text: str) -> Iterator[list[str]]:
    """The words of each command; a line that ends in a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        if words := shlex.split(line, comments=True):
            yield words


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    if words[0] == "torchrun":  # the same command, in one process here
        place = words.index("-m") + 1
        (name,) = (name for name, entry in COMMANDS.items() if entry == f"{words[place]}:main")
        words = [name, *words[place + 1 :]]
    module, _, function = COMMANDS[words[0]].partition(":")
    monkeypatch.setattr(sys, "argv", [words[0]])
    less = f"{LESS[words[0]]} {LESS.get(' '.join(words[:2]), '')}"
    return getattr(importlib.import_module(module), function)([*words[1:], *less.split()])


def a_file(path: Path) -> None:
    """Ten images of nothing in particular, where a document takes a file for granted."""
    draws = np.random.default_rng(0)
    gaussians = gsdata.Gaussians(
        means=draws.uniform(-1, 1, (60, 2)).astype(np.float32),
        cholesky=draws.uniform(0.5, 2, (60, 3)).astype(np.float32),
        colors=draws.uniform(0, 1, (60, 1)).astype(np.float32),
        counts=np.full(10, 6),
        size=(28, 28),
    )
    codes = quantize(gaussians, fit_quantizers(gaussians))
    gsdata.save(path, codes, labels=np.arange(10), classes=[str(k) for k in range(10)])


@pytest.mark.parametrize("name", GUIDES)
def test_what_a_guide_shows_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    a_file(Path("demo/digits.gsd"))
    names: dict[str, object] = {}
    shown = list(blocks(ROOT / name))
    assert shown, "the expression that finds blocks finds none"
    for language, text in shown:
        if language == "python":
            exec(compile(text, f"{name}, a snippet", "exec"), names)
        elif language == "sh":
            for words in shell_lines(text):
                code = run_command(words, monkeypatch)
                assert code == 0, f"{shlex.join(words)}: exit {code}: {capsys.readouterr().err}"


def help_of(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *verb: str) -> str:
    module, _, function = COMMANDS[name].partition(":")
    monkeypatch.setattr(sys, "argv", [name])
    assert getattr(importlib.import_module(module), function)([*verb, "--help"]) == 0
    return capsys.readouterr().out


def test_every_option_that_a_document_names_exists(monkeypatch, capsys):
    verbs = [("gsd-distill", "dm"), ("gsd-distill", "dc"), ("gsd-distill", "tm")]
    texts = [help_of(name, monkeypatch, capsys) for name in COMMANDS]
    texts += [help_of(name, monkeypatch, capsys, *verb) for name, *verb in verbs]
    texts += [script.read_text() for script in (ROOT / "benchmarks").glob("*.py")]
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", "\n".join(texts)))
    # Of pip, pytest and ruff.
    known |= {"--extra-index-url", "--strict", "--check"}
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", document.read_text()))
        assert named - known == set(), document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (document.parent / target).exists(), target


def test_every_make_target_that_a_document_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named - targets == set(), document.name


def test_every_script_that_a_document_names_exists():
    for document in DOCUMENTS:
        for script in re.findall(
            r"\b((?:benchmarks|spec|tools|tests|gsdata)/[\w/]+\.(?:py|md|json))\b", document.read_text()
        ):
            assert (ROOT / script).exists(), f"{document.name}: {script}"
