"""The pieces of the rate-distortion benchmark that could be wrong without anybody noticing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gsdata
import rate_codecs
from rate_codecs import at_bytes, nearest, pillow, round_bf16, to_bf16
from rate_distortion import Results, beside_webp
from rate_distortion_plot import plot, spread, within
from rate_utility import shrink


def noise(number: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, height, width, 3), dtype=np.uint8)


def test_quality_at_equal_bytes_is_linear_in_the_logarithm_and_never_extrapolated() -> None:
    curve = [(400.0, 30.0), (100.0, 20.0), (200.0, 28.0)]
    assert at_bytes(curve, 100) == 20
    assert at_bytes(curve, 400) == 30
    assert at_bytes(curve, 100 * 2**0.5) == pytest.approx(24)
    assert at_bytes(curve, 200 * 2**0.5) == pytest.approx(29)
    assert at_bytes(curve, 99.9) is None
    assert at_bytes(curve, 400.1) is None
    assert at_bytes([], 100) is None


def test_the_nearest_setting_is_near_by_ratio_or_there_is_none() -> None:
    curve = [(100.0, 1), (140.0, 2), (300.0, 3)]
    assert nearest(curve, 114) == 1
    assert nearest(curve, 117) is None  # 17 % and 20 % off
    assert nearest(curve, 124) == 2
    assert nearest(curve, 200) is None
    assert nearest(curve, 300 / 1.149) == 3
    assert nearest(curve, 300 / 1.151) is None
    assert nearest([], 100) is None


def test_differences_to_webp_are_taken_at_the_bytes_of_the_gsd() -> None:
    speed = {"images_per_second": 1.0}
    points: list[dict[str, Any]] = [
        {
            "data": "a",
            "codec": "webp",
            "setting": 0,
            "bytes_per_image": 100,
            "without_container": 70,
            "psnr_mean": 20.0,
        },
        {
            "data": "a",
            "codec": "webp",
            "setting": 1,
            "bytes_per_image": 400,
            "without_container": 280,
            "psnr_mean": 30.0,
        },
        {"data": "b", "codec": "webp", "setting": 0, "bytes_per_image": 1, "without_container": 1, "psnr_mean": 1.0},
        {"data": "a", "codec": "jpeg", "setting": 0, "bytes_per_image": 200, "psnr_mean": 50.0},
        {"data": "a", "codec": "gsd", "setting": 200, "bytes_per_image": 200, "psnr_mean": 26.0, **speed},
        {"data": "a", "codec": "gsd-more", "setting": 380, "bytes_per_image": 380, "psnr_mean": 31.0, **speed},
    ]
    first, second = beside_webp(points)
    assert first["webp"] == pytest.approx(25)
    assert first["above_webp"] == pytest.approx(1)
    assert first["webp_without_container"] == pytest.approx(20 + 10 * np.log(200 / 70) / np.log(4))
    assert first["above_webp_without_container"] == pytest.approx(26 - first["webp_without_container"])
    assert second["codec"] == "gsd-more"
    assert second["webp"] is not None
    assert second["webp_without_container"] is None
    assert second["above_webp_without_container"] is None


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_bytes_are_those_of_whole_files_and_pixels_those_of_a_decoder(codec: str) -> None:
    images = np.ascontiguousarray(np.repeat(np.repeat(noise(3, 4, 5), 8, axis=1), 8, axis=2))
    coded = pillow(codec, images, 60)
    weights, shown = [], []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, codec, quality=60, **rate_codecs.OPTIONS[codec])
        weights.append(len(stream.getvalue()))
        with Image.open(stream) as opened:
            shown.append(np.asarray(opened.convert("RGB")))
    assert coded.bytes_per_image == pytest.approx(np.mean(weights))
    np.testing.assert_array_equal(coded.shown, np.stack(shown))
    assert np.abs(coded.shown.astype(int) - images).mean() < 30
    if codec == "webp":
        assert 30 <= coded.bytes_per_image - coded.details["without_container"] <= 31


def test_rounding_to_bfloat16_is_to_nearest_with_ties_to_even() -> None:
    values = np.array([1.0, -2.5, 1 + 2**-7, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 0.999, 0.0], np.float32)
    expected = np.array([1.0, -2.5, 1 + 2**-7, 1.0, 1 + 2**-6, 1 + 2**-7, 1.0, 0.0], np.float32)
    np.testing.assert_array_equal(round_bf16(values), expected)


def test_bf16_gaussians_round_scales_less_half_a_pixel() -> None:
    one = np.ones(1, np.int64)
    gaussians = gsdata.Gaussians(
        means=np.array([[0.1, -0.7]], np.float32),
        cholesky=np.array([[0.503, 0.503, 3.3]], np.float32),
        colors=np.array([[0.3, 0.6, -0.1]], np.float32),
        counts=one,
        size=(8, 9),
    )
    rounded = to_bf16(gaussians)
    assert rounded.size == (8, 9)
    bits = [np.asarray(part).view(np.uint32) & 0xFFFF for part in (rounded.means, rounded.colors)]
    assert not any(part.any() for part in bits)
    scales = np.asarray(rounded.cholesky)[0]
    assert scales[0] == pytest.approx(0.503, abs=2e-5)  # three thousandths keep eight bits of their own
    assert scales[1] == np.float32(0.50390625)
    assert scales[2] == np.float32(2.796875 + 0.5)
    assert np.abs(scales - gaussians.cholesky[0]).max() < 2**-7


def test_blocks_are_averaged_and_rounded() -> None:
    images = noise(2, 5, 6)
    small = shrink(images, 2)
    assert small.shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(small[1, 1, 2], np.floor(images[1, 2:4, 4:6].mean(axis=(0, 1)) + 0.5))
    assert shrink(images, 1) is images


def test_finished_points_are_kept_until_the_sources_change(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    calls: list[str] = []

    def measure() -> dict[str, Any]:
        calls.append("")
        return {"psnr_mean": float(len(calls))}

    def stopped() -> dict[str, Any]:
        raise KeyboardInterrupt

    first = Results(output, "code 1")
    assert first.point("a", measure) == {"psnr_mean": 1.0}
    with pytest.raises(KeyboardInterrupt):
        first.point("b", stopped)
    assert not output.exists()
    second = Results(output, "code 1")
    assert second.point("a", measure) == {"psnr_mean": 1.0}
    second.point("b", measure)
    second.finish({"notes": "n"})
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert json.loads(output.read_text())["points"] == {"a": {"psnr_mean": 1.0}, "b": {"psnr_mean": 2.0}}
    third = Results(output, "code 1")
    third.point("b", measure)
    third.finish({})
    assert list(json.loads(output.read_text())["points"]) == ["b"]  # what a run did not ask for is not in its result
    assert Results(output, "code 2").point("b", measure) == {"psnr_mean": 3.0}


def test_labels_keep_their_distance_and_order() -> None:
    assert spread([0.1, 0.5, 0.9], 0.05) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    moved = spread([0.1, 0.4, 0.41, 0.42, 0.47], 0.06)
    assert np.diff(moved).min() >= 0.06 - 1e-9
    assert np.mean(moved[1:]) == pytest.approx(np.mean([0.4, 0.41, 0.42, 0.47]))
    assert moved[0] == pytest.approx(0.1)
    assert spread([], 0.1) == []


def test_a_curve_is_cut_where_the_panel_ends() -> None:
    curve = [(100.0, 20.0), (400.0, 30.0)]
    assert within(curve, 200, 1000) == [(200, pytest.approx(25)), (400.0, 30.0)]
    assert within(curve, 500, 600) == []


def test_the_plot_names_every_curve_and_holds_no_image(tmp_path: Path) -> None:
    points, codecs = {}, {"jpeg": 19, "avif": 24, "webp": 23, "bf16": 18, "gsd": 22, "gsd-more": 22.5}
    for name in ("cifar10", "imagenette-128", "kodak"):
        for codec, base in codecs.items():
            for step in range(4):
                weight = 100.0 * 2**step
                points[f"{name}/{codec}/{step}"] = {
                    "data": name,
                    "codec": codec,
                    "bytes_per_image": weight,
                    "without_container": weight - 30,
                    "psnr_mean": base + 3.0 * step,
                }
    rows = [
        {
            "data": "cifar10",
            "codec": codec,
            "bytes_per_image": weight,
            "images": 10,
            "accuracy": {"mean": mean, "std": std},
        }
        for codec, weight, mean, std in [
            ("original", 3072, 50, 1),
            ("gsd", 100, 45, 1),
            ("gsd", 200, 46, 1),
            ("webp", 100, 44, None),
        ]
    ]
    images = {name: {"images": 3} for name in ("cifar10", "imagenette-128", "kodak")}
    result = tmp_path / "r.json"
    result.write_text(json.dumps({"quick": False, "points": points, "utility": rows, "test_images": images}))
    vector, raster = plot(result)
    drawn = vector.read_text()
    for text in ("JPEG", "AVIF", "WebP", "bf16 Gaussians", ".gsd", ".gsd, more work", "CIFAR-10", "Kodak", "Utility"):
        assert text in drawn, text
    assert "<image" not in drawn
    with Image.open(raster) as opened:
        assert opened.size[0] > 1000
    plot(result)
    assert vector.read_text() == drawn
