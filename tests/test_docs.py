"""The documents are true: their commands and snippets run (with less work than they ask for), their options and links exist.

A block of Python or of a shell that is not run has a line before it that says why: ``<!-- not run: reason -->``.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import gsdata
from gsdata.quantize import fit_quantizers, quantize

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "recipes/*.md", "spec/*.md")
    for path in ROOT.glob(pattern)
)
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
RUN, NOT_RUN = ("python", "sh"), ("hexdump", "json", "text")
GPU = ["docs/gpu.md"]
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
    "gsd-export": "",
}
SMALLER = {"--ipc 1": "--bytes 3000"}


def blocks(document: Path) -> Iterator[tuple[str, str, str | None]]:
    """Language and text of each fenced block, and why it is not run."""
    for match in re.finditer(
        r"^(?:<!-- not run: (.*?) -->\n)?```(.*?)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL
    ):
        yield match[2], match[3], match[1]


def runnable(name: str) -> list[tuple[str, str]]:
    return [(language, text) for language, text, reason in blocks(ROOT / name) if language in RUN and reason is None]


GUIDES = [pytest.param(name, marks=pytest.mark.gpu if name in GPU else ()) for name in NAMES if runnable(name)]


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


def a_folder(path: Path) -> None:
    """Photographs of nothing in particular: two classes, two sizes."""
    from PIL import Image

    draws = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for k in range(3):
            pixels = draws.integers(0, 256, (3, 4 + k, 3), np.uint8)
            Image.fromarray(pixels).resize((80, 72 + k), Image.Resampling.BICUBIC).save(path / name / f"{k}.jpg")


@pytest.mark.parametrize("name", GUIDES)
def test_what_a_guide_shows_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    a_file(Path("demo/digits.gsd"))
    a_folder(Path("photos"))
    names: dict[str, object] = {}
    for language, text in runnable(name):
        if language == "python":
            exec(compile(text, f"{name}, a snippet", "exec"), names)
        else:
            for words in shell_lines(text):
                code = run_command(words, monkeypatch)
                assert code == 0, f"{shlex.join(words)}: exit {code}: {capsys.readouterr().err}"


def test_the_expressions_find_what_they_look_for():
    assert {"README.md", "docs/budget.md", "docs/gpu.md", "docs/train.md"} <= {guide.values[0] for guide in GUIDES}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_snippet_is_run_or_says_why_not(document):
    text = document.read_text()
    for language, _, reason in blocks(document):
        assert language in RUN + NOT_RUN, f"a block of {language or 'no language'}: {' or '.join(RUN)} is run"
        assert reason is None or (language in RUN and len(reason) > 10)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(list(blocks(document))), (
        "a fence that is not found"
    )
    # Indented blocks are for what these tests need not run: make, pip, formulas.
    assert not re.findall(r"^ {4}(?:gsd-\w+|torchrun|python examples|import|from) .*", text, re.MULTILINE)


def help_of(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *verb: str) -> str:
    module, _, function = COMMANDS[name].partition(":")
    monkeypatch.setattr(sys, "argv", [name])
    assert getattr(importlib.import_module(module), function)([*verb, "--help"]) == 0
    return capsys.readouterr().out


def test_every_option_that_a_document_names_exists(monkeypatch, capsys):
    verbs = [("gsd-distill", "dm"), ("gsd-distill", "dc"), ("gsd-distill", "tm")]
    texts = [help_of(name, monkeypatch, capsys) for name in COMMANDS]
    texts += [help_of(name, monkeypatch, capsys, *verb) for name, *verb in verbs]
    texts += [
        script.read_text() for folder in ("benchmarks", "examples", "fuzz") for script in (ROOT / folder).glob("*.py")
    ]
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", "\n".join(texts)))
    # Of pip, pytest, ruff and torchrun.
    known |= {"--extra-index-url", "--strict", "--check", "--nproc-per-node"}
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", document.read_text()))
        assert named - known == set(), document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
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
            r"\b((?:benchmarks|docs|examples|spec|tools|tests|gsdata)/[\w/]+\.(?:py|md|json))\b", document.read_text()
        ):
            assert (ROOT / script).exists(), f"{document.name}: {script}"


def nav_pages(entries: list[object]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav_pages(value) if isinstance(value, list) else [value]


def test_every_document_is_a_page_of_the_site():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (pages,) = re.findall(r"^PAGES = (\{.*?^\})", (ROOT / "docs/site_pages.py").read_text(), re.MULTILINE | re.DOTALL)
    outside = ast.literal_eval(pages)
    assert set(outside.values()) == {name for name in NAMES if not name.startswith("docs/")}
    there = [*outside, *(name.removeprefix("docs/") for name in NAMES if name.startswith("docs/"))]
    assert sorted(nav_pages(settings["nav"])) == sorted(there), "nav in mkdocs.yml, and the documents that there are"


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    pages = {path: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    for path, text in pages.items():
        assert not re.findall(r"<(?:script|link|img)\b[^>]*=\"(?:https?:)?//[^>]*>", text), path.name
    reference = "".join(text for path, text in pages.items() if path.parent.name == "api")
    public = {name: f"gsdata.{gsdata._HOMES[name]}.{name}" for name in gsdata._HOMES}
    missing = [name for name, full in public.items() if not re.search(f'id="(gsdata.{name}|{full})"', reference)]
    assert missing == [], "public names that docs/api/ does not show"
