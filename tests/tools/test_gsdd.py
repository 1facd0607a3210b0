from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gsdata
from gsdata.errors import GsdError
from gsdata_tools import encode, gsdd
from gsdata_tools.gsdd_checkpoint import Splats, read


def splats(images: int = 2, number: int = 12, *, opacity: tuple[float, float] = (0.3, 1.0), seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    total = images * number
    signs = rng.choice([1, -1], (total, 2))
    return Splats(
        means=rng.uniform(-1, 1, (total, 2)),
        cholesky=np.stack([*(rng.uniform(0.5, 3, (2, total)) * signs.T), rng.normal(0, 1, total)])[[0, 2, 1]].T,
        colors=rng.normal(0.2, 0.3, (total, 3)),
        opacities=rng.uniform(*opacity, total),
        counts=np.full(images, number),
        lr=None,
    )


def state_of(values: Splats, **changes: Any) -> dict[str, Any]:
    """The state dict that the reference method's code saves."""
    bound = torch.tensor([[0.5, 0.0, 0.5]])
    opacity = torch.tensor(values.opacities[:, None], dtype=torch.float32)
    state: dict[str, Any] = {
        "params.xy": torch.tensor(values.means, dtype=torch.float32),
        "params.cholesky": torch.tensor(values.cholesky, dtype=torch.float32) - bound,
        "params.features": torch.tensor(values.colors, dtype=torch.float32),
        "params.opacity": opacity,
        "_opacity": opacity,
        "num_points_per_image": torch.tensor(values.counts),
        "background": torch.ones(len(values.counts), 3),
        "cholesky_bound": bound,
    }
    return {name: value for name, value in (state | changes).items() if value is not None}


def one(cholesky: tuple[float, float, float], *, x: float = 0.0, opacity: float = 1.0) -> Splats:
    means, colors = np.array([[x, 0.0]]), np.array([[1.0, 0.5, -0.25]])
    return Splats(means, np.array([cholesky]), colors, np.array([opacity]), np.array([1]), None)


def drawn(values: Splats, size: tuple[int, int]) -> np.ndarray:
    return np.stack([image for image, _ in gsdd.images(values, size)])


def ours(gaussians: gsdata.Gaussians) -> np.ndarray:
    return np.asarray(gsdata.render(gaussians), np.float64).transpose(0, 2, 3, 1)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def test_the_renderer_is_the_equations_sample_by_sample() -> None:
    values = splats(1, 6, opacity=(0.2, 1.8))
    height, width = 10, 13  # one tile, so that every Gaussian whose square meets the image is seen everywhere
    expected = np.zeros((height, width, 3))
    for row, column, dy, dx, k in np.ndindex(height, width, 2, 2, 6):
        l11, l21, l22 = values.cholesky[k]
        factor = np.array([[l11, 0], [l21, l22]])
        covariance = factor @ factor.T + np.eye(2) / 12
        at = np.array([column + 0.25 + dx / 2, row + 0.25 + dy / 2])
        d = at - (values.means[k] + 1) / 2 * (width, height)
        alpha = min(1.0, values.opacities[k] * np.exp(-d @ np.linalg.inv(covariance) @ d / 2))
        if alpha >= 1 / 255:
            expected[row, column] += alpha * values.colors[k] / 4
    np.testing.assert_allclose(drawn(values, (height, width))[0], expected, atol=1e-12)


def test_tiles_that_the_circle_does_not_meet_see_nothing() -> None:
    # Round, with a standard deviation of 6: the radius is 19, and 1/255 is reached at 20.
    image = drawn(one((6.0, 0, 6.0), x=12.9 / 32 - 1), (64, 64))[0]
    assert image[32, 31, 0] > 0
    assert not image[:, 32:].any()
    assert drawn(one((6.0, 0, 6.0), x=13.1 / 32 - 1), (64, 64))[0][32, 32, 0] > 0


def test_crowded_tiles_are_counted() -> None:
    values = splats(1, gsdd.TILE_LIMIT + 1)
    means = np.full_like(values.means, -0.9)
    crowded = Splats(means, np.abs(values.cholesky) * 0.1, values.colors, values.opacities, values.counts, None)
    assert [tiles for _, tiles in gsdd.images(crowded, (64, 64))] == [1]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_converted_looks_alike(seed: int) -> None:
    values = splats(4, 30, seed=seed)
    reference = drawn(values, (32, 32))
    assert rms(ours(gsdd.convert(values, (32, 32))), reference) < 0.002
    assert reference.std() > 0.1
    cut = splats(4, 30, opacity=(1.0, 1.5), seed=seed)
    assert rms(ours(gsdd.convert(cut, (32, 32))), drawn(cut, (32, 32))) < 0.01


def test_widening_and_uncutting_are_closer_than_leaving_them_out() -> None:
    for opacity, factor in ((1.0, 5), (1.6, 1.5)):
        values = one((1.0, 0.3, 0.8), opacity=opacity)
        reference = drawn(values, (24, 24))
        plain = gsdata.Gaussians(
            *(array.astype(np.float32) for array in (values.means, values.cholesky, values.colors * opacity)),
            values.counts, (24, 24), antialias="box",
        )  # fmt: skip
        assert rms(ours(gsdd.convert(values, (24, 24))), reference) * factor < rms(ours(plain), reference)


@pytest.mark.parametrize("opacity", [1.1, 1.7, 3.0])
def test_cut_profiles_become_the_closest_one_or_two(opacity: float) -> None:
    u = np.linspace(0, 30, 30001)
    cut = np.minimum(1, opacity * np.exp(-u))

    def error(s: float, a: float, r: float, d: float) -> float:
        return float(np.square(cut - a * np.exp(-u / s) - d * np.exp(-u / r)).mean())

    def found(two: bool) -> tuple[float, ...]:
        return tuple(float(v[0]) for v in gsdd._profiles(np.array([opacity]), np.array([two])))

    one, two = found(False), found(True)
    assert one[3] == 0
    for k, step in ((0, 0.02), (0, -0.02), (1, 0.02), (1, -0.02)):
        assert error(*one) < error(*(v + step * (n == k) for n, v in enumerate(one)))
    assert error(*two) < error(*one) / 4
    assert two[3] >= -1.51
    for k, step in ((1, 0.02), (1, -0.02), (3, 0.02), (3, -0.02)):
        assert error(*two) < error(*(v + step * (n == k) for n, v in enumerate(two)))


def test_profiles_that_are_not_cut_stay() -> None:
    opacity = np.array([0.25, 1.0])
    wide, height, _, depth = gsdd._profiles(opacity, opacity > 2)
    assert np.allclose([wide, height, depth], [[1, 1], [0.25, 1], [0, 0]])


def test_splitting_keeps_each_image_its_own_gaussians() -> None:
    values = splats(3, 4, opacity=(0.5, 1.0))
    values.opacities[[0, 1, 9]] = 1.5
    made = gsdd.convert(values, (16, 16))
    assert made.counts.tolist() == [6, 4, 5]
    reference = drawn(values, (16, 16))
    for image in range(3):
        assert rms(ours(made.select([image]))[0], reference[image]) < 0.01
    assert gsdd.convert(values, (16, 16), split=9).counts.tolist() == [4, 4, 4]
    assert gsdd.convert(values, (16, 16), split=0.1).counts.tolist() == [6, 4, 5]


def test_what_is_never_drawn_is_left_out_and_signs_do_not_matter() -> None:
    values = splats(2, 5)
    values.opacities[[1, 6, 7]] = (0.001, -1, 0)
    made = gsdd.convert(values, (16, 16))
    assert made.counts.tolist() == [4, 3]
    assert (made.cholesky[:, [0, 2]] > 0).all()
    flipped = Splats(values.means, values.cholesky * [-1, -1, 1], values.colors, values.opacities, values.counts, None)
    assert np.array_equal(gsdd.convert(flipped, (16, 16)).cholesky, made.cholesky)


def test_reading_a_state_dict(tmp_path: Path) -> None:
    values = splats()
    torch.save(state_of(values), tmp_path / "a.pt")
    plain = read(tmp_path / "a.pt", "fp32")
    for name in ("means", "cholesky", "colors", "opacities", "counts"):
        np.testing.assert_allclose(getattr(plain, name), getattr(values, name), atol=1e-6)
    rounded = read(tmp_path / "a.pt")
    assert np.array_equal(rounded.means, torch.tensor(values.means).float().bfloat16().double().numpy())
    # What the code adds, it adds after rounding.
    stored = (torch.tensor(values.cholesky).float() - torch.tensor([0.5, 0, 0.5])).bfloat16().double().numpy()
    assert np.array_equal(rounded.cholesky, stored + np.array([0.5, 0, 0.5]))
    torch.save({"model": state_of(values), "syn_lr": torch.tensor(0.015)}, tmp_path / "b.pt")
    assert read(tmp_path / "b.pt").lr == pytest.approx(0.015)
    without = state_of(values, **{"params.opacity": None, "_opacity": torch.ones(24, 1), "cholesky_bound": None})
    torch.save(without, tmp_path / "c.pt")
    assert read(tmp_path / "c.pt").opacities.tolist() == [1.0] * 24


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": Hostile(), "syn_lr": torch.tensor(0.1)}, "Python objects, which could run code"),
        (torch.zeros(3), "holds Tensor"),
        ({"a": 1}, "has no params.xy"),
        ({"params.xy": torch.zeros(24, 3)}, r"params.xy is torch.float32 \(24, 3\)"),
        ({"params.features": torch.zeros(24, 3, dtype=torch.int64)}, "expected floats"),
        ({"params.cholesky": torch.full((24, 3), float("nan"))}, "not finite"),
        ({"params.cholesky": torch.full((24, 3), 1e30)}, "1e\\+30"),
        ({"params.cholesky": torch.zeros(23, 3)}, "23 rows"),
        ({"num_points_per_image": torch.tensor([12, 11])}, "add up to 24"),
        ({"num_points_per_image": torch.tensor([25, -1])}, "add up to 24"),
        ({"num_points_per_image": None}, "has no num_points_per_image"),
        ({"cholesky_bound": torch.zeros(2, 3)}, "expected 1"),
    ],
)
def test_what_is_no_state_dict_is_refused_in_one_line(content, said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    is_change = isinstance(content, dict) and set(content) <= set(state_of(splats()))
    torch.save(state_of(splats(), **content) if is_change else content, "x.pt")
    with pytest.raises(GsdError, match=said) as caught:
        read(Path("x.pt"))
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(state_of(splats()), tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    for bad in (b"", b"junk" * 50, data[: len(data) // 2], b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "bad.pt").write_bytes(bad)
        with pytest.raises(GsdError, match=r"bad\.pt: .*weights_only=True") as caught:
            read(tmp_path / "bad.pt")
        assert "\n" not in str(caught.value)


def test_extreme_values_convert_without_a_warning() -> None:
    values = splats(1, 6, opacity=(1, 1))
    values.cholesky[:] = [[1e5, -1e5, 1e-9], [0, 0, 0], [1e-9, 1e5, 0], [-1e5, 1e5, 1e5], [0, 30, 0], [1, 1, 0]]
    values.opacities[3] = 1e5
    made = gsdd.convert(values, (16, 16))
    assert np.isfinite(made.cholesky).all()
    assert (made.cholesky[:, [0, 2]] > 0).all()
    assert np.isfinite(drawn(values, (16, 16))).all()


def test_the_largest_values_that_are_read_can_be_stored(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    most = {name: torch.full((24, width), 1e5) for name, width in (("params.cholesky", 3), ("params.features", 3))}
    torch.save(state_of(splats(), **most, **{"params.opacity": torch.full((24, 1), 1e5)}), "x.pt")
    assert run(capsys, "--from-gsdd", "x.pt", "--size", 8, "--classes", 2, "-o", "g.gsd", "--precision", "fp32")[0] == 0


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = encode.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_converts_and_says_how_far_pixels_differ(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = splats(6, 40, opacity=(0.5, 1.3))
    torch.save({"model": state_of(values), "syn_lr": torch.tensor(0.015)}, "state.pt")
    words = ("--from-gsdd", "state.pt", "--size", 32, "--classes", "ant,bee,cow", "-o", "g.gsd", "--json", "--quiet")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report == json.loads(Path("g.json").read_text())
    assert Path("g.png").exists()
    with gsdata.open("g.gsd") as file:
        file.verify()
        assert (len(file), file.size, file.classes) == (6, (32, 32), ("ant", "bee", "cow"))
        assert file.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert file.recipe.lr == pytest.approx(0.015)
        assert file.recipe.mean is not None
        assert file.provenance["source"]["name"] == "gsdd-checkpoint"
        shown, reference = ours(file.gaussians()), drawn(read(Path("state.pt")), (32, 32))
    assert report["difference_max"] == pytest.approx(np.abs(shown - reference).max())
    assert report["difference_rms"] == pytest.approx(rms(shown, reference))
    assert report["difference_rms_unquantised"] < report["difference_rms"] < 0.01
    assert report["psnr_mean"] > 40
    assert report["gaussians"] == 240 + report["gaussians_split"] > 240
    assert report["bytes_total"] == Path("g.gsd").stat().st_size
    code, _, err = run(capsys, *words)
    assert (code, "--force" in err) == (2, True)
    code, out, _ = run(capsys, *words, "--force", "--bits", "5/4/4/4", "--zca", "cifar10", "--split-opacity", "9")
    coarse = json.loads(out)
    assert coarse["bytes_total"] < report["bytes_total"]
    assert coarse["difference_rms"] > report["difference_rms"]
    assert coarse["gaussians_split"] == 0
    with gsdata.open("g.gsd") as file:
        assert file.recipe.zca == {"epsilon": 0.1, "data": "cifar10", "split": "train"}


def test_labels_from_a_file(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(splats(4, 5)), "state.pt")
    torch.save(torch.tensor([1, 0, 1, 0]), "labels.pt")
    np.save("labels.npy", np.array([3, 0, 1, 2], np.uint8))
    words = ("--from-gsdd", "state.pt", "--size", "16x20", "-o", "g.gsd", "--force", "--quiet")
    assert run(capsys, *words, "--labels", "labels.pt")[0] == 0
    with gsdata.open("g.gsd") as file:
        assert (file.labels.tolist(), file.class_count, file.size) == ([1, 0, 1, 0], 2, (16, 20))
    assert run(capsys, *words, "--labels", "labels.npy", "--classes", "5")[0] == 0
    with gsdata.open("g.gsd") as file:
        assert (file.labels.tolist(), file.class_count) == ([3, 0, 1, 2], 5)
    assert run(capsys, *words, "--classes", "0")[0] == 0
    with gsdata.open("g.gsd") as file:
        assert file.label_kind == "none"
    np.save("bad.npy", np.array([0.5] * 4))
    for more, said in (
        (("--labels", "bad.npy"), "expected 4 class numbers"),
        (("--labels", "labels.npy", "--classes", "2"), "has the label 3"),
        (("--labels", "state.pt"), "expected 4 class numbers"),
    ):
        code, _, err = run(capsys, *words, *more)
        assert (code, said in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from-gsdd", "state.pt", "--size", "8"], "--classes 10"),
        (["--from-gsdd", "state.pt", "--classes", "2"], "--size 32"),
        (["--from-gsdd", "state.pt", "--size", "8", "--classes", "5"], "do not divide into 5"),
        (["--from-gsdd", "state.pt", "--size", "8", "--classes", "a,a"], "different names"),
        (["--from-gsdd", "state.pt", "--size", "8", "--classes", "2", "--steps", "9"], "--steps is for --data"),
        (["--from-gsdd", "state.pt", "--data", "mnist-5k", "--size", "8"], "one of the two"),
        (["--from-gsdd", "no.pt", "--size", "8", "--classes", "2"], "no such file"),
        (["--classes", "2", "--data", "mnist-5k"], "--classes is for --from-gsdd"),
        ([], "what to encode?"),
    ],
)
def test_requests_that_cannot_be_met(words, said, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(splats()), "state.pt")
    code, out, err = run(capsys, *words, "-o", "g.gsd")
    assert (code, out) == (2, "")
    assert said in err
    assert [entry.name for entry in Path().iterdir()] == ["state.pt"]
