"""Strategies for others: what they draw is what they say, and three readers agree about it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
import make_vectors
import reader
from gsdata import testing


@settings(max_examples=25)
@given(testing.files())
def test_files_are_read_alike_by_the_reader_of_the_document(data: bytes) -> None:
    gsdata.open(data).verify()
    assert json.loads(json.dumps(reader.describe(data))) == json.loads(json.dumps(make_vectors.describe(data)))


def test_files_are_read_alike_in_javascript(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node: not installed")
    drawn: list[bytes] = []

    @settings(max_examples=10, database=None)
    @given(testing.files())
    def collect(data: bytes) -> None:
        drawn.append(data)

    collect()
    (tmp_path / "valid").mkdir()
    for number, data in enumerate(drawn):
        (tmp_path / "valid" / f"{number}.gsd").write_bytes(data)
        (tmp_path / "valid" / f"{number}.json").write_text(json.dumps(make_vectors.describe(data)))
    check = Path(__file__).parents[1] / "spec" / "js" / "check.mjs"
    done = subprocess.run(["node", str(check), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{len(drawn)} of {len(drawn)} vectors agree\n", done.stdout + done.stderr


@settings(max_examples=10)
@given(data=st.data())
def test_bounds_are_kept(data: st.DataObject) -> None:
    batch = data.draw(testing.gaussians(max_images=2, max_count=3, max_size=9, kinds=["tiny"], opacities=True))
    assert batch.num_images <= 2
    assert batch.counts.max(initial=0) <= 3
    assert max(batch.size) <= 9
    assert batch.opacities is not None
    codes = data.draw(testing.codes(max_images=2, max_count=3, channels=2))
    assert (codes.channels, codes.num_images <= 2) == (2, True)
    assert gsdata.open(data.draw(testing.files(max_images=1))).images <= 1


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import gsdata; import gsdata.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: gsdata.testing needs hypothesis: pip install 'gsdata[testing]'"
    )
