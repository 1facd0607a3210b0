"""``gsd-encode`` from the command line: what it writes, what it reports, and how it stops and goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import gsdata
from gsdata.kernels import reference
from gsdata_tools import blocks, encode, encode_run, fit, metrics, search
from gsdata_tools.encode import main

KEYS = {
    "schema", "images", "psnr_mean", "psnr_min", "ssim_mean", "bytes_total", "bits_per_gaussian", "seconds", "images_per_second"
}  # fmt: skip


def _images(count, height=16, width=16, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / height
    waves = rng.normal(size=(count, channels, 3)) * 3
    a, b, c = (waves[..., k, None, None] for k in range(3))
    images = 128 + 100 * np.sin(a * 2 * x + b * 2 * y + c) + 20 * (x > y)
    return np.clip(images, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture
def source(tmp_path):
    images = _images(10)
    np.savez(tmp_path / "d.npz", x=images, y=np.arange(10) % 3)
    return tmp_path / "d.npz"


def _encode(source, output, *options):
    return main(["--data", str(source), "--quiet", "--steps", "40", "-o", str(output), *options])


def test_the_report_is_about_the_closed_file(source, tmp_path, capsys):
    assert _encode(source, tmp_path / "o.gsd", "--gaussians", "9", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) >= KEYS
    assert report["schema"] == "gsd-encode/1"
    assert json.loads((tmp_path / "o.json").read_text()) == report
    with gsdata.open(tmp_path / "o.gsd") as file:
        file.verify()
        assert file.counts.tolist() == [9] * 10
        assert file.labels.tolist() == [i % 3 for i in range(10)]
        shown = np.rint(np.clip(reference.render(file.gaussians()), 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    images = np.load(source)["x"]
    psnr = metrics.psnr(shown, images)
    assert report["psnr_mean"] == pytest.approx(psnr.mean(), abs=0.01)
    assert report["psnr_min"] == pytest.approx(psnr.min(), abs=0.01)
    assert report["ssim_mean"] == pytest.approx(metrics.ssim(shown, images).mean(), abs=1e-3)
    size = (tmp_path / "o.gsd").stat().st_size
    assert report["bytes_total"] == size
    assert report["bits_per_gaussian"] == size * 8 / 90
    assert report["images_per_second"] == pytest.approx(10 / report["seconds"], rel=0.01)
    assert not (tmp_path / "o.ckpt").exists()
    with Image.open(tmp_path / "o.png") as picture:
        assert min(picture.size) > 16


def test_the_file_says_where_it_came_from_and_nothing_of_the_run(source, tmp_path):
    assert _encode(source, tmp_path / "o.gsd", "--gaussians", "9", "--threads", "1", "--seed", "3") == 0
    with gsdata.open(tmp_path / "o.gsd") as file:
        recipe, provenance = file.recipe, file.provenance
    images = np.load(source)["x"].reshape(-1, 3) / 255
    assert recipe.mean == pytest.approx(images.mean(0), abs=1e-5)
    assert recipe.std == pytest.approx(images.std(0), abs=1e-5)
    assert provenance["initialised_from_real"] is True
    assert provenance["seed"] == 3
    assert provenance["options"]["gaussians"] == 9
    assert provenance["options"]["steps"] == 40
    assert len(provenance["source"]["sha256"]) == 64
    assert "gsdata" in provenance["versions"]
    text = json.dumps(provenance)
    assert str(tmp_path) not in text
    assert "threads" not in text


def test_same_options_same_bytes_whatever_the_threads(source, tmp_path):
    contents = set()
    for name, threads in (("a", "1"), ("b", "3")):
        assert _encode(source, tmp_path / f"{name}.gsd", "--gaussians", "7", "--threads", threads) == 0
        contents.add((tmp_path / f"{name}.gsd").read_bytes())
    assert len(contents) == 1
    assert _encode(source, tmp_path / "c.gsd", "--gaussians", "7", "--seed", "1") == 0
    assert (tmp_path / "c.gsd").read_bytes() not in contents


@pytest.mark.parametrize("budget", ["140", "200.5", "333"])
def test_a_budget_is_used_and_never_exceeded(source, tmp_path, budget):
    assert _encode(source, tmp_path / "o.gsd", "--bytes-per-image", budget) == 0
    allowed = int(float(budget) * 10)
    size = (tmp_path / "o.gsd").stat().st_size
    assert 0.98 * allowed <= size <= allowed
    with gsdata.open(tmp_path / "o.gsd") as file:
        file.verify()


def test_an_impossible_budget_ends_before_the_first_iteration(source, tmp_path, capsys, monkeypatch):
    assert _encode(source, tmp_path / "warm.gsd", "--gaussians", "1") == 0
    monkeypatch.setattr(encode_run, "compile_kernels", lambda: None)
    monkeypatch.setattr(fit, "fit_images", lambda *args, **kwargs: pytest.fail("an iteration was made"))
    assert _encode(source, tmp_path / "o.gsd", "--bytes-per-image", "30") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--bytes-per-image" in said
    assert not list(tmp_path.glob("o.*"))  # a left-over checkpoint would refuse the corrected command
    monkeypatch.undo()
    (least,) = re.findall(r"ask for (\d+) or more", said)
    assert _encode(source, tmp_path / "o.gsd", "--bytes-per-image", str(int(least) - 1)) == 2
    assert _encode(source, tmp_path / "o.gsd", "--bytes-per-image", least) == 0
    with gsdata.open(tmp_path / "o.gsd") as file:
        assert file.counts.min() >= 1
        assert 0.98 * 10 * int(least) <= (tmp_path / "o.gsd").stat().st_size <= 10 * int(least)


def test_a_budget_beyond_a_gaussian_per_pixel_is_not_used_up_and_a_note_says_so(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", x=_images(3, 4, 4))
    assert _encode(tmp_path / "d.npz", tmp_path / "o.gsd", "--bytes-per-image", "5000") == 0
    assert "16 Gaussians" in capsys.readouterr().err
    with gsdata.open(tmp_path / "o.gsd") as file:
        assert 14 <= file.counts.mean() <= 17
    assert _encode(tmp_path / "d.npz", tmp_path / "p.gsd", "--bytes-per-image", "1e308") == 2
    assert "--bytes-per-image" in capsys.readouterr().err


def test_without_a_wish_there_is_a_gaussian_per_24_pixels(source, tmp_path):
    assert _encode(source, tmp_path / "o.gsd", "--limit", "2") == 0
    with gsdata.open(tmp_path / "o.gsd") as file:
        assert file.counts.tolist() == [256 // 24] * 2


@pytest.mark.parametrize("amount", [("--gaussians", "8"), ("--bytes-per-image", "180")])
def test_an_interrupted_run_resumes_to_the_same_bytes(source, tmp_path, monkeypatch, capsys, amount):
    monkeypatch.setattr(blocks, "BLOCK_PIXELS", 4 * 16 * 16)
    assert _encode(source, tmp_path / "whole.gsd", *amount) == 0
    update = encode_run.cli.Progress.update

    def interrupt(self, done, **numbers):
        update(self, done, **numbers)
        if done == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode_run.cli.Progress, "update", interrupt)
        assert _encode(source, tmp_path / "part.gsd", *amount) == 130
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "part.gsd").exists()
    assert _encode(source, tmp_path / "part.gsd", *amount) == 2
    assert "--resume" in capsys.readouterr().err
    assert _encode(source, tmp_path / "part.gsd", *amount, "--steps", "41", "--resume") == 2
    assert _encode(source, tmp_path / "part.gsd", *amount, "--rate-weight", "0", "--resume") == 2
    computed = []
    start = fit._start
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_start", lambda target, count, draws: computed.append(1) or start(target, count, draws))
        patch.setattr(encode_run, "compile_kernels", lambda: None)
        assert _encode(source, tmp_path / "part.gsd", *amount, "--resume") == 0
    assert (tmp_path / "part.gsd").read_bytes() == (tmp_path / "whole.gsd").read_bytes()
    assert not (tmp_path / "part.ckpt").exists()
    if amount[0] == "--gaussians":
        assert len(computed) == 2


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    images = _images(40, 32, 32)
    np.savez(tmp_path / "d.npz", x=images)
    command = [
        sys.executable, "-c", "from gsdata_tools import blocks, encode; blocks.BLOCK_PIXELS = 4 * 32 * 32; raise SystemExit(encode.main())",
        "--data", str(tmp_path / "d.npz"), "--quiet", "--gaussians", "30", "--threads", "1", "--steps", "1500",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen([*command, "-o", str(tmp_path / "a.gsd")], env=environment)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "a.ckpt").glob("*fit-*.npz")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "a.gsd").exists()
    for name, options in (("a", ["--resume"]), ("b", [])):
        subprocess.run([*command, "-o", str(tmp_path / f"{name}.gsd"), *options], env=environment, check=True)
    assert (tmp_path / "a.gsd").read_bytes() == (tmp_path / "b.gsd").read_bytes()


def test_a_time_limit_makes_fewer_steps_and_says_how_many(source, tmp_path, capsys):
    arguments = ["--data", str(source), "--gaussians", "9", "--steps", "100000000"]
    assert main([*arguments, "-o", str(tmp_path / "a.gsd"), "--time-limit", "2s", "--json"]) == 0
    captured = capsys.readouterr()
    steps = json.loads(captured.out)["steps"]
    assert 1 <= steps < 100000000
    assert f"--steps {steps}" in captured.err
    assert main([*arguments[:-1], str(steps), "-o", str(tmp_path / "b.gsd"), "--quiet"]) == 0
    assert (tmp_path / "a.gsd").read_bytes() == (tmp_path / "b.gsd").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "8/6/7"], "four bit widths"),
        (["--bits", "8/6/7/13"], "four bit widths"),
        (["--gaussians", "0"], "at least 1"),
        (["--gaussians", "3", "--bytes-per-image", "90"], "not allowed with"),
        (["--gaussians", "70000"], "at most"),
        (["--device", "cuda"], "CPU"),
        (["--time-limit", "10"], "unit"),
    ],
)
def test_what_cannot_be_met_is_exit_2_and_one_line(source, tmp_path, capsys, options, message):
    assert _encode(source, tmp_path / "o.gsd", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("o.*"))


def test_bits_reach_the_file(source, tmp_path):
    assert _encode(source, tmp_path / "o.gsd", "--gaussians", "5", "--bits", "7/5/6/4") == 0
    with gsdata.open(tmp_path / "o.gsd") as file:
        (quantizers,) = file.codes().quantizers
    assert [quantizers.means.bits, quantizers.scales.bits, quantizers.shear.bits, quantizers.colors.bits] == [
        7,
        5,
        6,
        4,
    ]


def test_a_rate_weight_makes_smaller_files_of_little_less_quality(tmp_path):
    source, reports = tmp_path / "d.npz", []
    np.savez(source, x=_images(60))
    for weight in ("0", "0.02", "0.2", "1"):
        assert _encode(source, tmp_path / "o.gsd", "--gaussians", "20", "--rate-weight", weight, "--force") == 0
        reports.append(json.loads((tmp_path / "o.json").read_text()))
        with gsdata.open(tmp_path / "o.gsd") as file:
            assert file.provenance["options"]["rate_weight"] == float(weight)
    sizes = [report["bytes_total"] for report in reports]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[3] < 0.95 * sizes[0]
    assert sizes[1] < 0.97 * sizes[0]
    assert reports[0]["psnr_mean"] - reports[1]["psnr_mean"] < 0.6
    assert _encode(source, tmp_path / "o.gsd", "--gaussians", "20", "--rate-weight", "-1", "--force") == 2


def test_without_a_rate_weight_the_search_never_ends_worse_than_rounding():
    images = _images(6)
    results = [fit.fit_images(images, 12, steps=60, sweeps=sweeps, rate_weight=0.0) for sweeps in (0, 1, 12)]
    rounded, once, searched = (result.squared_errors for result in results)
    assert (once <= rounded).all()
    assert (searched <= once).all()
    assert searched.sum() < 0.9 * rounded.sum()


def test_the_help_says_the_defaults_of_the_fit():
    assert (encode._STEPS, encode._RATE_WEIGHT) == (fit.DEFAULT_STEPS, search.DEFAULT_RATE_WEIGHT)


def test_images_without_labels_and_with_one_channel(tmp_path):
    np.savez(tmp_path / "d.npz", x=_images(3, 9, 21, 1))
    assert _encode(tmp_path / "d.npz", tmp_path / "o.gsd") == 0
    with gsdata.open(tmp_path / "o.gsd") as file:
        assert (file.label_kind, file.channels, file.size) == ("none", 1, (9, 21))


def test_help_loads_nothing_heavy():
    code = "import sys; from gsdata_tools.encode import main; main(['--help']); print([m for m in ('torch','numba','cupy') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "--bytes-per-image" in shown
    assert shown.strip().endswith("[]")


@pytest.mark.data("cifar10")
def test_cifar10_meets_the_target(tmp_path, capsys):
    arguments = ["--data", "cifar10", "--split", "test", "--limit", "100", "--gaussians", "42", "--quiet", "--json"]
    assert main([*arguments, "-o", str(tmp_path / "c.gsd")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["psnr_mean"] >= 28.5
    assert report["bits_per_gaussian"] <= 50
