from __future__ import annotations

import pytest
import torch

from gsdata.augment import STRATEGY, DsaParameters, augment, operations

NAMES = operations(STRATEGY)


def batch(count: int = 6, channels: int = 3, height: int = 16, width: int = 20) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(count))


def test_strategy_is_the_published_one() -> None:
    assert NAMES == ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert operations("dsa:colour_crop_cutout_flip_scale_rotate") == NAMES
    assert operations("none") == operations("") == ()
    p = DsaParameters()
    assert (p.flip, p.scale, p.rotate, p.crop, p.cutout) == (0.5, 1.2, 15.0, 0.125, 0.5)
    assert (p.brightness, p.saturation, p.contrast) == (1.0, 2.0, 0.5)


@pytest.mark.parametrize("mode", ["single", "multiple"])
def test_siamese_treats_batches_of_other_sizes_alike(mode: str) -> None:
    images = batch(9)
    for seed in range(24):
        whole = augment(images, STRATEGY, seed=seed, siamese=True, mode=mode)
        part = augment(images[2:5], STRATEGY, seed=seed, siamese=True, mode=mode)
        torch.testing.assert_close(whole[2:5], part, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("siamese", [True, False])
def test_parameters_are_shared_or_per_image(name: str, siamese: bool) -> None:
    same = batch(1).expand(12, -1, -1, -1)
    changed = []
    for seed in range(5):
        out = augment(same, name, seed=seed, siamese=siamese)
        changed.append(any(not torch.equal(out[0], other) for other in out[1:]))
    assert any(changed) is not siamese


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("siamese", [True, False])
def test_gradients_match_finite_differences(name: str, channels: int, siamese: bool) -> None:
    images = batch(3, channels, 6, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, name, seed=4, siamese=siamese), (images,), fast_mode=True)


def test_single_mode_draws_every_operation_and_only_one() -> None:
    images = batch(2)
    seen = set()
    for seed in range(60):
        out = augment(images, STRATEGY, seed=seed, siamese=True)
        drawn = torch.Generator().manual_seed(seed)
        name = NAMES[int(torch.randint(6, (1,), generator=drawn))]
        seen.add(name)
        # A one-name strategy also spends one draw on its choice, so the parameters after it are the same.
        assert torch.equal(out, augment(images, name, seed=seed, siamese=True))
    assert seen == set(NAMES)


def test_no_global_state_is_read_or_written() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augment(batch(), STRATEGY, seed=11)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augment(batch(), STRATEGY, seed=11), first)
    generator = torch.Generator().manual_seed(11)
    assert torch.equal(augment(batch(), STRATEGY, generator=generator), first)
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(11).get_state())


def test_crop_shifts_whole_pixels_within_the_published_range() -> None:
    images = torch.zeros(1, 1, 16, 24)
    images[0, 0, 8, 12] = 1.0
    rows, columns = set(), set()
    for seed in range(300):
        out = augment(images, "crop", seed=seed, siamese=True)
        assert float(out.sum()) == 1.0
        at = out[0, 0].nonzero()[0]
        rows.add(int(at[0]) - 8)
        columns.add(int(at[1]) - 12)
    assert rows == set(range(-2, 3))
    assert columns == set(range(-3, 4))


def test_cutout_zeroes_a_rectangle_of_half_the_side_and_nothing_else() -> None:
    images = torch.ones(400, 2, 16, 12)
    out = augment(images, "cutout", seed=5)
    holes = out[:, 0] == 0
    assert torch.equal(out[:, 0], out[:, 1])
    heights, widths = holes.any(2).sum(1), holes.any(1).sum(1)
    assert int(heights.max()) == 8
    assert int(widths.max()) == 6
    assert torch.equal(holes.sum((1, 2)), heights * widths)
    assert set(heights.tolist()) == set(range(8, 16 // 4 - 1, -1))


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = batch(1).expand(400, -1, -1, -1)
    out = augment(images, "flip", seed=1)
    flipped = torch.tensor([torch.equal(o, images[0].flip(2)) for o in out])
    kept = torch.tensor([torch.equal(o, images[0]) for o in out])
    assert bool((flipped ^ kept).all())
    assert 150 < int(flipped.sum()) < 250


def test_color_follows_its_formula_on_a_flat_grey_image() -> None:
    images = torch.full((500, 3, 4, 4), 0.25)
    shift = augment(images, "color", seed=3)[:, 0, 0, 0] - 0.25
    assert float(shift.min()) >= -0.5
    assert float(shift.max()) <= 0.5
    assert float(shift.max() - shift.min()) > 0.9


def test_scale_and_rotate_keep_the_centre_and_stay_in_range() -> None:
    images = torch.zeros(1, 1, 33, 33)
    images[0, 0, 16, 16] = 1.0
    images[0, 0, 16, 26] = 1.0
    for seed in range(40):
        turned = augment(images, "rotate", seed=seed, siamese=True)[0, 0]
        assert float(turned[16, 16]) > 0.9
        right = turned[:, 20:]
        row = float((right.sum(1) * torch.arange(33.0)).sum() / right.sum()) - 16
        assert abs(row) <= 10 * 0.2589 + 0.2
        zoomed = augment(images, "scale", seed=seed, siamese=True)[0, 0]
        assert float(zoomed[16, 16]) > 0.9
        right = zoomed[:, 20:]
        column = float((right.sum(0) * torch.arange(20.0, 33.0)).sum() / right.sum()) - 16
        assert 10 / 1.2 - 0.3 <= column <= 10 * 1.2 + 0.3


def test_half_precision_keeps_its_type() -> None:
    for name in NAMES:
        assert augment(batch().bfloat16(), name, seed=2).dtype == torch.bfloat16


def test_bad_requests_are_named() -> None:
    with pytest.raises(ValueError, match="unknown operation 'blur'"):
        augment(batch(), "color_blur", seed=0)
    with pytest.raises(ValueError, match="exactly one of seed and generator"):
        augment(batch(), STRATEGY)
    with pytest.raises(ValueError, match="floating-point"):
        augment(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), STRATEGY, seed=0)
    empty = torch.zeros(0, 3, 4, 4)
    assert augment(empty, STRATEGY, seed=0).shape == empty.shape
