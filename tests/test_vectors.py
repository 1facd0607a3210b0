"""spec/vectors: what FORMAT.md means, file by file, and that every reader agrees."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import gsdata
import make_vectors
import reader
from gsdata import container
from gsdata.errors import GsdError
from gsdata.rans import coder

ROOT = Path(__file__).parents[1]
SPEC, FOLDER = ROOT / "spec", ROOT / "spec" / "vectors"
TEXT = (ROOT / "FORMAT.md").read_text(encoding="utf-8")
FILES = sorted(FOLDER.glob("*/*.gsd"))


def expected(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def test_the_vectors_are_those_that_the_script_makes() -> None:
    made = make_vectors.vectors()
    assert set(made) == {str(path.relative_to(FOLDER)) for path in FOLDER.glob("**/*.*")}, make_vectors.__doc__
    zstd = json.loads((FOLDER / "versions.json").read_text())["zstd"]
    same = zstd == ".".join(map(str, zstandard.ZSTD_VERSION))
    for name, data in made.items():
        committed = (FOLDER / name).read_bytes()
        if same:
            assert data == committed, f"{name}: {make_vectors.__doc__}"
        elif name.endswith(".gsd") and not name.startswith("invalid"):
            assert gsdata.open(data).content_id == gsdata.open(committed).content_id, name


def test_gsdata_reads_them_as_they_say() -> None:
    wrong = []
    for path in FILES:
        want = expected(path)
        try:
            found = make_vectors.describe(path.read_bytes())
            agrees = json.loads(json.dumps(found)) == {key: want.get(key) for key in found}
            said = "read" if agrees or "error" in want else "read as something else"
        except GsdError as error:
            agrees = type(error).__name__ == want.get("error") and bool(
                re.search(rf"\boffset {want.get('offset')}\b", str(error))
            )
            said = f"{type(error).__name__}: {error}"
        if not agrees:
            wrong.append(f"{path.name}: {said}; expected {want.get('error', 'none')} at {want.get('offset')}")
    assert not wrong, "\n".join(wrong)
    assert len(FILES) > 300


@pytest.mark.parametrize("backend", ["reference", "dense", "cpu"])
def test_every_backend_renders_the_pictures(backend: Any) -> None:
    pytest.importorskip("torch")
    pictures = 0
    for path in (FOLDER / "render").glob("*.gsd"):
        values = gsdata.open(path).gaussians().torch()
        for want in expected(path)["renders"]:
            for dtype, key in (("float32", "pixels"), ("uint8", "bytes")):
                found = gsdata.render(values, want["size"], [want["image"]], dtype=dtype, backend=backend).numpy()
                far = [0 if a is None else a - b for a, b in zip(want[key], found.reshape(-1).tolist(), strict=True)]
                assert (np.abs(far) <= (0 if key == "bytes" else np.array(want["tolerance"]))).all(), path.name
            pictures += 1
    assert pictures >= 30


def test_the_reader_in_python_agrees() -> None:
    run([sys.executable, str(SPEC / "reader.py"), str(FOLDER)])


def test_the_reader_in_javascript_agrees() -> None:
    if shutil.which("node") is None:
        pytest.skip("node: not installed")
    run(["node", str(SPEC / "js" / "check.mjs"), str(FOLDER)])


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(FILES)} of {len(FILES)} vectors agree"


def test_a_reader_that_disagrees_says_so(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "render", tmp_path / "vectors" / "render")
    changed = tmp_path / "vectors" / "render" / "box.json"
    pixels = expected(changed)
    pixels["renders"][0]["pixels"][0] += 1e-4
    changed.write_text(json.dumps(pixels))
    (tmp_path / "vectors" / "render" / "none.json").write_text('{"error": "FormatError", "offset": 36}')
    commands = [[sys.executable, str(SPEC / "reader.py")]]
    commands += [["node", str(SPEC / "js" / "check.mjs")]] if shutil.which("node") else []
    for command in commands:
        done = subprocess.run([*command, str(tmp_path / "vectors")], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert re.search(r"box\.gsd: .*pixels", done.stdout)
        assert "none.gsd: read without an error" in done.stdout
        assert done.stdout.endswith("3 of 5 vectors agree\n")


def test_one_version_everywhere() -> None:
    major, minor = container.VERSION
    assert reader.VERSION == container.VERSION
    assert f"VERSION = [{major}, {minor}];" in (SPEC / "js" / "reader.mjs").read_text()
    assert json.loads((FOLDER / "versions.json").read_text())["format"] == f"{major}.{minor}"


def test_the_readers_share_no_code_with_gsdata() -> None:
    own = {path.stem for path in SPEC.glob("*.py")}
    for path in SPEC.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "zstandard", *own}, f"{path.name}: {name}"


def test_every_rule_has_a_vector_and_every_vector_a_rule() -> None:
    rules = set(re.findall(r"\[([A-Z]\d+)\]", TEXT))
    broken = {rule for path in FILES if "error" in expected(path) for rule in expected(path)["rules"]}
    shown = {rule for path in FILES if "error" not in expected(path) for rule in expected(path)["rules"]}
    assert rules == broken | shown, (
        f"without a vector: {rules - broken - shown}; not in FORMAT.md: {broken | shown - rules}"
    )
    # What no file can break: decoding that is merely different, identity and rendering.
    assert rules - broken == {"A1", "I1", "I2", "O2", "S9", "S10", "S11", "S12", *(f"V{i}" for i in range(1, 9))}


def test_every_must_about_files_has_a_rule() -> None:
    """Sentences with MUST name a rule, unless they begin as one about writers, or about what a reader does and no file can show."""
    no_file_shows = (
        "MUST, MUST NOT, SHOULD and MAY",
        "A reader MUST refuse any other form",  # the list that follows
        "A reader MUST look values up",
        "A reader MUST refuse more, before it allocates",  # the rows of the table
        "The first 8 MUST be the magic",  # P1
        "Products and sums MUST NOT overflow",
        "A reader MUST NOT execute anything",
        "it MUST refuse, naming the feature",  # H12
        "else it MUST read it by the rules of m",  # P2
    )
    text = re.sub(r"\s+", " ", TEXT)
    sentences = [s for s in re.split(r"(?<=[.;:|]) ", text) if re.search(r"\bMUST\b", s)]
    sentences = [s for s in sentences if not re.match(r"[Aa] writer MUST", s)]
    assert len(sentences) > 25
    without = [s for s in sentences if not re.search(r"\[[A-Z]\d+\]", s) and not any(no in s for no in no_file_shows)]
    assert not without, "\n".join(without)


def test_the_coded_vectors_have_what_they_are_for() -> None:
    found: dict[str, Any] = {}
    for path in FILES:
        if path.stem.startswith("codec-rans"):
            file = gsdata.open(path)
            for section in (s for s in file.sections if s.codec == 2):
                layout = file._chunks.layouts(section.chunk)[section.name]
                found[f"{path.stem}/{section.name}"] = coder.open_job(file._container.read_stored(section), layout)
    assert len(found["codec-rans-256-lanes/labels"].states) == 256
    assert len(found["codec-rans-one-lane/gaussians"].states) == 1
    assert any(len(m.thresholds) > 2 for job in found.values() for m in job.models)
    assert any(len(m.sources) > 1 for job in found.values() for m in job.models)
    planes = [(m, plane) for job in found.values() for m, plane in zip(job.models, job.layout.planes, strict=True)]
    assert any(plane.shift and plane.stream in m.sources for m, plane in planes)
    assert any((m.frequencies == m.frequencies[0, 0]).all() for m, _ in planes)


SMALL = [path for path in FILES if "error" not in expected(path) and path.stat().st_size < 2048]


def undetected(path: Path, every: bool) -> list[tuple[int, int]]:
    """Positions and values of single changed bytes that nothing notices; before the sections opening must, in one its checksum."""
    good = path.read_bytes()
    file = gsdata.open(good)
    sections = [section for section in file.sections if section.stored_size]
    start = sections[0].offset if sections else len(good)
    found = []
    for position in range(len(good)):
        inside = next((s for s in sections if s.offset <= position < s.offset + s.stored_size), None)
        assert (inside is None) == (position < start)
        for difference in range(1, 256) if every else [1 + position * 37 % 255]:
            changed = bytearray(good)
            changed[position] ^= difference
            try:
                if inside is None:
                    gsdata.open(changed)
                else:
                    file._container.source.data = changed  # type: ignore[attr-defined]
                    file._container.read_stored(inside)
            except GsdError:
                continue
            found.append((position, changed[position]))
    return found


def test_a_change_of_any_byte_is_detected() -> None:
    assert len(SMALL) > 40
    assert {path.name: bad for path in SMALL if (bad := undetected(path, every=False))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_every_change_of_any_byte_is_detected(path: Path) -> None:
    assert undetected(path, every=True) == []
