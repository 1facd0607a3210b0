"""The page of ``gsd-inspect --html``: what is in it, and what its modules compute (in Node; a browser has test_page_browser.py)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gsdata
from gsdata_tools import page
from gsdata_tools.printing import printable
from gsdata_tools.usage import UsageError
from synthetic import gsd

ROOT = Path(__file__).parents[2]
WEB = ROOT / "tools" / "gsdata_tools" / "web"
FILE = gsd(labels=[0, 1, 1, 0], classes=["cat", "</script><b>dog"], metadata={"note": "<img src=x onerror=alert(1)>"})


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of each element that holds code or data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = dict(attributes).get("id") or tag if tag in ("script", "style", "title") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is not None:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def test_the_page_is_whole_and_lets_nothing_else_run():
    parsed = Parsed(page.page(FILE, "set.gsd").decode())
    assert base64.b64decode(parsed.texts["file"]) == FILE
    assert parsed.texts["title"] == "set.gsd"
    (policy,) = (
        a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    hashes = {
        name: "'sha256-" + base64.b64encode(hashlib.sha256(parsed.texts[name].encode()).digest()).decode() + "'"
        for name in ("code", "style")
    }
    assert rules == {
        "default-src": "'none'",
        "script-src": hashes["code"],
        "style-src": hashes["style"],
        "worker-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "worker",
    }
    assert [attributes.get("id") for tag, attributes in parsed.tags if tag == "script"] == ["file", "code"]
    for _, attributes in parsed.tags:
        assert not {"style", "src", "href", "srcdoc"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]


def test_nothing_of_the_file_is_in_the_page_but_as_base64():
    text = page.page(FILE, "set.gsd").decode()
    assert "dog" not in text
    assert "alert(1)" not in text
    assert hashlib.sha256(FILE).hexdigest() in text


@pytest.mark.parametrize("name", ["</title><script>alert(1)</script>", "@FILE@ & 'x' \"y\"", "\udcff", "a\u202eb\n"])
def test_a_name_is_text(name):
    text = page.page(FILE, name).decode()
    parsed = Parsed(text)
    assert parsed.texts["title"] == printable(name)
    assert len([tag for tag, _ in parsed.tags if tag == "script"]) == 2
    assert base64.b64decode(parsed.texts["file"]) == FILE


def test_the_page_costs_less_than_3_mb():
    data = bytes(1_200_000)
    assert len(page.page(data, "x.gsd")) - len(data) < 600_000


def test_a_file_too_large_for_a_browser_is_refused_unread(monkeypatch):
    monkeypatch.setattr(page, "MAX_FILE", len(FILE))
    assert page.page_of(gsdata.open(FILE), "x.gsd") == page.page(FILE, "x.gsd")
    monkeypatch.setattr(page, "MAX_FILE", len(FILE) - 1)
    monkeypatch.setattr(gsdata.GsdFile, "to_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(UsageError, match="at most"):
        page.page_of(gsdata.open(FILE), "x.gsd")


def test_every_module_is_in_the_script_before_it_is_used():
    script = page.bundle()
    order = re.findall(r'^modules\["([\w.]+)"\] = ', script, re.MULTILINE)
    assert set(order) >= {path.name for path in WEB.glob("*.mjs")} | {"reader.mjs", "fzstd.mjs"}
    assert len(order) == len(set(order))
    for name in order:
        before = script[: script.index(f'modules["{name}"] = ')]
        body = script[len(before) :].partition("\n})();")[0]
        assert all(f'modules["{used}"] = ' in before for used in re.findall(r'= modules\["([\w.]+)"\];', body))


@pytest.mark.parametrize("line", ['import x from "./errors.mjs";', "export default 1;", 'const x = "</SCRIPT>";'])
def test_what_the_bundler_does_not_know_is_an_error(line, monkeypatch, tmp_path):
    (tmp_path / "odd.mjs").write_text(f"{line}\n")
    monkeypatch.setattr(page, "_WEB", tmp_path)
    with pytest.raises(ValueError, match=r"odd\.mjs"):
        page.bundle("odd.mjs")


def test_texts_of_a_file_are_never_html():
    for path in WEB.glob("*.mjs"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?:", path.read_text()
        )
        assert not found, path.name


@pytest.fixture
def node():
    program = shutil.which("node")
    if program is None:
        pytest.skip("node: not installed")
    return program


def test_what_the_page_computes(node):
    vectors = sorted((ROOT / "spec" / "vectors").glob("[vr]*/*.gsd"))
    done = subprocess.run(
        [node, ROOT / "tests" / "tools" / "page_logic.mjs", *vectors], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for path, (parts, classes, tables) in zip(vectors, json.loads(done.stdout), strict=True):
        file = gsdata.open(path)
        budget = file.byte_table()
        assert parts == {key: getattr(budget, key) for key in ("payload", "labels", "index", "overhead")}, path.name
        assert classes == file.labels.tolist(), path.name
        assert dict(tables[0][1])["value_space"] == "srgb-unit"


def test_the_script_is_javascript(node, tmp_path):
    (tmp_path / "page.js").write_text(page.bundle())
    done = subprocess.run([node, "--check", tmp_path / "page.js"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
