"""benchmarks/page.py on a small file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from browser import PROGRAM
from synthetic import gsd

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="chromium: not installed")
def test_it_measures_a_file(tmp_path):
    (tmp_path / "small.gsd").write_bytes(gsd([5] * 300, labels=[0] * 300))
    result = tmp_path / "page.json"
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "page.py",
            "--file",
            tmp_path / "small.gsd",
            "--rounds",
            "1",
            "--output",
            result,
        ],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    found = json.loads(result.read_text())
    assert done.returncode == (not all(found["met"].values())), done.stderr
    assert found["page_bytes_more_than_file"] < 200_000
    for backend, words in {"as it is opened": "drawn with", "WebGL2": "drawn with WebGL2"}.items():
        (run,) = found["runs"][backend]
        assert run["drawn"].startswith(words)
        assert 0 < run["first_image_seconds"] <= run["first_screen_seconds"]
        assert run["processor_seconds"] > 0
