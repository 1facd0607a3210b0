"""attacks/: every script ends with 0, and with 1 where the weakness that it looks for is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from browser import PROGRAM

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "attacks").glob("*.py"))
NEEDS = {"08": "numba", "13": "numba"}


def run(script: Path, code: Path) -> subprocess.CompletedProcess[str]:
    """A script against the gsdata and gsdata_tools in a folder."""
    if (module := NEEDS.get(script.name[:2])) is not None:
        pytest.importorskip(module)
    path = os.pathsep.join([str(code), str(code / "tools")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=280)


def test_the_scripts_are_numbered():
    assert [script.name[:2] for script in SCRIPTS] == [f"{i + 1:02}" for i in range(len(SCRIPTS))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_attack_fails(script):
    done = run(script, ROOT)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "SUCCEEDED" not in done.stdout


# For each attack a check that is taken out, as (file, text, replacement), and what then succeeds.
WEAKNESSES = {
    "01": ("gsdata/container.py", "    if size > MAX_HEADER:", "    if False:", "a header of 1 GiB"),
    "02": ("gsdata/container.py", 'table["offset"] != expected.astype(np.uint64)', 'table["offset"] < 0', "at one place"),
    "03": ("gsdata/file.py", "part.weights.argmax(axis=1) for part in self._chunks.labels_by_chunk()", "part.weights.argmax(axis=1) for part in [self._labels]", "soft labels"),
    "04": ("gsdata/quantize.py", "if not ((self.table[:-1] < between) & (between <= self.table[1:])).all():", "if False:", "to the same"),
    "05": ("gsdata/canonical.py", "if math.isfinite(number):", "if True:", "NaN"),
    "06": ("gsdata/canonical.py", "encoded <= previous", "encoded < previous", "a key twice"),
    "07": ("gsdata/canonical.py", "MAX_DEPTH = 8", "MAX_DEPTH = 100000", "9 levels"),
    "08": ("tools/gsdata_tools/export_names.py", "    safe = [safe_name(name) for name in classes]", "    return list(classes)", "wrote"),
    "09": ("gsdata/streams.py", "if count and int(values.max()) >= limit:", "if False:", "class"),
    "10": ("gsdata/container.py", "if file_length != source.size:", "if False:", "after it"),
    "11": ("gsdata/container.py", "if zlib.crc32(data) != section.crc:", "if False:", "PARTS"),
    "12": ("tools/gsdata_tools/printing.py", "if c.isprintable() else", "if True else", "prints"),
    "13": ("tools/gsdata_tools/running.py", "except (MemoryError, RuntimeError) as error:", "except ZeroDivisionError as error:", "lines"),
    "14": ("tools/gsdata_tools/page.py", "html.escape(printable(name))", "name", "other elements"),
    "14 policy": ("tools/gsdata_tools/web/page.html", "default-src 'none'; ", "", "the security policy"),
    "14 script": ("tools/gsdata_tools/web/about.mjs", "element.textContent = text", "element.innerHTML = text", "innerHTML"),
    "14 size": ("tools/gsdata_tools/page.py", "if size > MAX_FILE:", "if False:", "more than a page holds"),
    "14 chromium": ("tools/gsdata_tools/web/texts.mjs", "text.length > most", "false", "hang"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", WEAKNESSES)
def test_a_planted_weakness_is_found(number, tmp_path):
    if number.endswith("chromium") and PROGRAM is None:
        pytest.skip("chromium: not installed")
    name, text, replacement, succeeds = WEAKNESSES[number]
    for folder in ("gsdata", "tools/gsdata_tools", "spec/js"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = (tmp_path / name).read_text()
    assert source.count(text) == 1
    (tmp_path / name).write_text(source.replace(text, replacement))
    (script,) = (script for script in SCRIPTS if script.name.startswith(number[:2]))
    done = run(script, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any("SUCCEEDED" in line and succeeds in line for line in done.stdout.splitlines()), done.stdout


def test_there_is_a_weakness_for_every_attack():
    assert sorted({number[:2] for number in WEAKNESSES}) == [script.name[:2] for script in SCRIPTS]
