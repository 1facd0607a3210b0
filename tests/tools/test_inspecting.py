from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gsdata
from gsdata import Recipe
from gsdata.container import write_container
from gsdata_tools import inspecting
from gsdata_tools.printing import printable
from synthetic import gsd

COUNTS = [7, 3, 0, 12, 1, 9]
LABELS = [2, 0, 1, 1, 0, 2]
RECIPE = Recipe(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), lr=0.01, model="ConvNet-D3")
OPTIONS = {
    "labels": LABELS,
    "classes": ["ant", "bee", "cat"],
    "recipe": RECIPE,
    "provenance": {"source": {"name": "made up", "sha256": "00ff"}, "seed": 3, "sizes": [1, 2.5]},
    "metadata": {"note": "hello", "blob": b"\x00\xff"},
}


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "set.gsd"
    target.write_bytes(gsd(COUNTS, chunk_images=4, **OPTIONS))
    return target


def run(capsys, *arguments):
    code = inspecting.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_has_exactly_these_keys(path, capsys):
    code, out, err = run(capsys, path, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found) == [
        "schema",
        "format_version",
        "sha256",
        "content_id",
        "images",
        "classes",
        "class_names",
        "channels",
        "reference_size",
        "gaussians",
        "bits_per_gaussian",
        "bytes",
        "streams",
        "budget",
        "metadata",
    ]
    assert list(found["gaussians"]) == ["total", "min", "mean", "max"]
    assert list(found["bytes"]) == ["payload", "labels", "index", "overhead", "total"]
    assert list(found["budget"]) == ["bytes_per_class", "bits_per_class", "ipc_float32", "ipc_uint8"]
    assert list(found["metadata"]) == ["recipe", "provenance", "user"]


def test_json_values(path, capsys):
    found = json.loads(run(capsys, path, "--json")[1])
    data = path.read_bytes()
    assert found["schema"] == "gsd-inspect/1"
    assert found["format_version"] == "1.0"
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["content_id"] == gsdata.open(data).content_id
    assert (found["images"], found["classes"], found["channels"]) == (6, 3, 3)
    assert found["class_names"] == ["ant", "bee", "cat"]
    assert found["reference_size"] == [12, 10]
    assert found["gaussians"] == {"total": 32, "min": 0, "mean": 32 / 6, "max": 12}
    assert found["bytes"].pop("total") == len(data) == sum(found["bytes"].values())
    assert found["bits_per_gaussian"] == len(data) * 8 / 32
    assert found["budget"] == {
        "bytes_per_class": len(data) / 3,
        "bits_per_class": len(data) * 8 / 3,
        "ipc_float32": len(data) / (3 * 3 * 12 * 10 * 4),
        "ipc_uint8": len(data) / (3 * 3 * 12 * 10),
    }
    assert found["metadata"]["recipe"]["lr"] == 0.01
    assert found["metadata"]["provenance"]["source"] == {"name": "made up", "sha256": "00ff"}
    assert found["metadata"]["user"] == {"note": "hello", "blob": "00ff"}


def test_an_empty_file_has_nulls_where_numbers_mean_nothing(tmp_path, capsys):
    empty = tmp_path / "empty.gsd"
    empty.write_bytes(gsd([]))
    found = json.loads(run(capsys, empty, "--json")[1])
    assert found["gaussians"] == {"total": 0, "min": None, "mean": None, "max": None}
    assert found["bits_per_gaussian"] is None
    assert found["budget"]["bytes_per_class"] == found["bytes"]["total"]
    code, out, _ = run(capsys, empty, "--verify")
    assert code == 0
    assert "nan" not in out.split()


def test_page(path, capsys):
    code, out, err = run(capsys, path)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    total = path.stat().st_size
    assert lines[0] == f"{path}: 6 images of 12x10 pixels, 3 classes, hard labels"
    for line in (
        "format gsd 1.0",
        "classes ant, bee, cat",
        "images per class 2",
        f"total {total:,} 100.00 %",
        "Gaussians per image 0 to 12, 5.33 on average",
        f"bits per Gaussian {total * 8 / 32:.2f} (whole file)",
        f"IPC, float32 {total / 4320:.4f} (one is 3 x 3 x 12 x 10 x 4 bytes; what papers count)",
        f"IPC, uint8 {total / 1080:.4f} (one is 3 x 3 x 12 x 10 bytes)",
        "mean 0.4, 0.5, 0.6",
        "model ConvNet-D3",
        "source.name made up",
        "sizes 1, 2.5",
        "note hello",
    ):
        assert line in lines
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "Verified" not in out


def test_shares_and_streams_add_up(path, capsys):
    lines = run(capsys, path)[1].splitlines()
    start = lines.index("Bytes")
    shares = [float(line.split()[-2]) for line in lines[start + 1 : start + 5]]
    assert sum(shares) == pytest.approx(100, abs=0.03)
    start = lines.index("Payload and labels by section")
    sections = [line.split() for line in lines[start + 2 : lines.index("Streams, bits per code") - 1]]
    table = gsdata.open(path).byte_table()
    assert sum(int(stored.replace(",", "")) for _, stored, *_ in sections) == table.payload + table.labels
    assert [name for name, *_ in sections] == ["counts", "labels", "gaussians"]
    for _, stored, bits, *_ in sections:
        assert float(bits) == pytest.approx(int(stored) * 8 / 32, abs=0.006)


def test_text_from_a_file_cannot_act_on_a_terminal(tmp_path, capsys):
    hostile = "\x1b]0;owned\x07\x9b2J\u202e\u2028\nname"
    target = tmp_path / "hostile.gsd"
    options = {
        "classes": [hostile],
        "labels": [0] * 4,
        "provenance": {hostile: hostile, "l": [hostile, {"k": hostile}]},
    }
    target.write_bytes(gsd(recipe=Recipe(model=hostile, augment=hostile), metadata={"m": hostile}, **options))
    for arguments in ([target], [target, "--json"], [target, "--verify", "--json"]):
        code, out, err = run(capsys, *arguments)
        assert code == 0
        assert not [c for c in out + err if not c.isprintable() and c != "\n"]
        assert r"\n" in out
    assert json.loads(run(capsys, target, "--json")[1])["class_names"] == [hostile]
    assert printable("a\x1b\u202eé 大") == "a\\x1b\\u202eé 大"


def test_long_values_are_cut_and_many_are_counted(tmp_path, capsys):
    target = tmp_path / "long.gsd"
    user = {f"key{i:03}": "v" * 1000 for i in range(100)}
    target.write_bytes(gsd(labels=[0] * 4, classes=[f"class {i}" for i in range(200)], metadata=user))
    out = run(capsys, target)[1]
    assert max(map(len, out.splitlines())) < 220
    assert "  ... and 40 more; --json shows all" in out
    assert "and 160 more" in out
    assert json.loads(run(capsys, target, "--json")[1])["metadata"]["user"] == user


def test_verify_says_what_it_checked(path, capsys):
    code, out, err = run(capsys, path, "--verify")
    assert (code, err) == (0, "")
    checks = out[out.index("Verified") :]
    for part in ("6 sections", "32 Gaussians", "6 images, of 3 of 3 classes", f"add up to {path.stat().st_size:,}"):
        assert part in checks
    assert "note: 1 images have no Gaussian" in checks
    code, out, err = run(capsys, path, "--verify", "--json")
    assert json.loads(out)["images"] == 6
    assert len(err.splitlines()) == 6
    assert all(line.startswith("checked: ") for line in err.splitlines())


def test_verify_notes_classes_without_images(tmp_path, capsys):
    target = tmp_path / "set.gsd"
    target.write_bytes(gsd(labels=[0] * 4, classes=["a", "b", "c"]))
    assert "note: 2 classes have no image" in run(capsys, target, "--verify")[1]
    target.write_bytes(gsd(soft_labels=np.eye(4)[:, :3] + 0.1))
    assert "labels (soft): one for each of 4 images, of 3 of 3 classes" in run(capsys, target, "--verify")[1]


def test_every_section_is_verified(path, capsys):
    data = gsd(COUNTS, chunk_images=4, optional_sections={"vendor.note": b"kept, and checked"}, **OPTIONS)
    sections = gsdata.open(data).sections
    assert "vendor.note" in [section.name for section in sections]
    for section in sections:
        bad = bytearray(data)
        bad[section.offset + section.stored_size // 2] ^= 4
        path.write_bytes(bad)
        code, out, err = run(capsys, path, "--verify")
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert repr(section.name) in err


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("labels", bytes([2, 0, 3, 1]), "value 3 at position 2, expected less than 3"),
        ("counts", bytes([7, 3, 1, 12, 0, 0, 0, 0]), "counts add up to 23, the header says 22"),
        (
            "gaussians",
            bytes(4 * 22) + bytes([0] * 21 + [200]) + bytes(3 * 22),
            "value 200 at position 21, expected less than 128",
        ),
        ("gaussians", bytes([255] * 22) + bytes(7 * 22), "positions add up beyond 255"),
    ],
)
def test_meaning_is_verified_where_every_checksum_is_right(path, capsys, name, raw, said):
    file = gsdata.open(path.read_bytes())
    container = file._container
    sections = [
        (s.name, s.chunk, raw if (s.name, s.chunk) == (name, 0) else file._chunks.raw(s.chunk)[s.name])
        for s in container.sections
    ]
    path.write_bytes(write_container(container.header, sections, 3))
    code, out, err = run(capsys, path, "--verify")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize("mode", [(), ("--json",), ("--verify",)])
def test_bad_files_are_one_line_and_exit_1(tmp_path, capsys, mode):
    for name, data in {"cut": gsd(COUNTS)[:-9], "empty": b"", "other": b"PK\x03\x04 something"}.items():
        target = tmp_path / f"{name}.gsd"
        target.write_bytes(data)
        code, out, err = run(capsys, target, *mode)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert str(target) in err


def test_standard_input(path, capsys, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(path.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    code, out, _ = run(capsys, "-", "--json")
    assert code == 0
    assert json.loads(out)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_preview(path, capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, out, err = run(capsys, path, "--verify", "--preview", sheet)
    assert code == 0
    assert err == f"{sheet}: 6 of 6 images\n"
    assert out.startswith(str(path))
    with Image.open(sheet) as image:
        small = image.size
    code, _, err = run(capsys, path, "--preview", sheet)
    assert code == 2
    assert "--force" in err
    assert run(capsys, path, "--preview", sheet, "--force", "--size", "128")[0] == 0
    with Image.open(sheet) as image:
        assert image.size[1] > small[1]


def test_a_damaged_file_leaves_the_old_preview(path, capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"old")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(capsys, path, "--preview", sheet, "--force")[0] == 1
    assert sheet.read_bytes() == b"old"


def test_html(path, capsys, tmp_path, monkeypatch):
    target = tmp_path / "set.html"
    code, out, err = run(capsys, path, "--html", target, "--json")
    assert code == 0
    assert err == f"{target}: {target.stat().st_size:,} bytes; open it in a browser\n"
    assert json.loads(out)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    first = target.read_text(encoding="utf-8")
    assert base64.b64encode(path.read_bytes()).decode() in first
    assert "<title>set.gsd</title>" in first
    code, out, err = run(capsys, path, "--html", target)
    assert (code, out) == (2, "")
    assert "--force" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert run(capsys, "-", "--html", target, "--force")[0] == 0
    assert target.read_text(encoding="utf-8") == first.replace("set.gsd<", "standard input<")
    assert sorted(tmp_path.iterdir()) == [path, target]


def test_a_damaged_file_leaves_the_old_page(path, capsys, tmp_path):
    target = tmp_path / "set.html"
    target.write_text("old")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(capsys, path, "--html", target, "--force")[0] == 1
    assert target.read_text() == "old"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_files_are_written_though_nobody_reads_what_is_printed(path, tmp_path, more):
    """As in ``gsd-inspect set.gsd --html set.html | head -1``."""
    outputs = [tmp_path / "set.png", tmp_path / "set.html"]
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "gsdata_tools.inspecting", path, "--preview", outputs[0], "--html", outputs[1], *more],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "", "PYTHONUNBUFFERED": "1"},  # fails at the first line
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert result.returncode == 1
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [str(output) for output in outputs]
    with Image.open(outputs[0]) as sheet:
        assert sheet.width > 0
    assert outputs[1].read_text(encoding="utf-8").endswith("</html>\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "FILE"),
        (["missing.gsd"], "missing.gsd"),
        ([".", "--json"], "directory"),
        (["missing.gsd", "--size", "3"], "--preview"),
        (["missing.gsd", "--preview", "x.jpg"], ".png"),
        (["missing.gsd", "--html", "x.htm"], ".html"),
        (["missing.gsd", "--html", "no/such/x.html"], "folder"),
        (["missing.gsd", "--html", "x.html"], "missing.gsd"),
        (["missing.gsd", "--preview", "no/such/x.png"], "folder"),
        (["missing.gsd", "--preview", "x.png", "--size", "0"], "size"),
        (["missing.gsd", "--colour"], "--colour"),
    ],
)
def test_usage_errors_exit_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_as_a_process_with_a_poor_terminal(tmp_path):
    target = tmp_path / "set.gsd"
    target.write_bytes(gsd(labels=[0] * 4, classes=["café 大"]))
    result = subprocess.run(
        [sys.executable, "-m", "gsdata_tools.inspecting", str(target), "--preview", str(tmp_path / "x.png")],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert r"caf\xe9 \u5927" in result.stdout


def test_preview_loads_no_torch(path, tmp_path):
    code = (
        "import sys; from gsdata_tools.inspecting import main\n"
        f"assert main([{str(path)!r}, '--preview', {str(tmp_path / 'x.png')!r}]) == 0\n"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout.splitlines()[-1] == "False", found.stderr
