from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import gsdata
from gsdata_tools import monitors
from gsdata_tools.monitors import draw, examine, recycle, warning

from .test_learnable import make_set


def healthy(counts=(5, 3, 9)):
    """A set of round, bright Gaussians inside the image, and its optimiser after steps that moved every one of them."""
    parameters, adam = make_set(counts)
    parameters.means.clamp_(-0.5, 0.5)
    parameters.log_scales[:] = 1.0
    parameters.shear[:] = 0.0
    parameters.colors[:] = 0.5
    draws = torch.Generator().manual_seed(0)
    for name in adam.second:
        adam.second[name].uniform_(0.5, 1.0, generator=draws)
    adam.steps[:] = 30.0
    return parameters, adam


def step(parameters, adam):
    """One real step of all images towards random pixels."""
    indices = np.arange(len(parameters.counts))
    rows = parameters.rows(indices)
    leaves = parameters.leaves(rows)
    rendered = gsdata.render(parameters.stored(leaves, parameters.counts))
    target = torch.rand(rendered.shape, generator=torch.Generator().manual_seed(0))
    (rendered - target).square().sum().backward()
    adam.step(parameters, rows, leaves)


def shown(parameters):
    """The images, before quantisation."""
    everything = {name: getattr(parameters, name) for name in parameters.ATTRIBUTES}
    return gsdata.render(parameters.assemble(everything, parameters.counts))


def failed(health):
    return {kind: np.flatnonzero(getattr(health, kind)).tolist() for kind in monitors.KINDS}


def test_a_healthy_set_has_no_failures():
    health = examine(*healthy())
    assert health.counts() == {"gaussians": 17, "escaped": 0, "needles": 0, "collapsed": 0}


def test_centres_outside_the_image_have_escaped():
    parameters, adam = healthy()
    parameters.means[2] = torch.tensor([1.001, 0.0])
    parameters.means[4] = torch.tensor([0.0, -1.2])
    parameters.means[6] = torch.tensor([0.999, -0.999])
    assert failed(examine(parameters, adam)) == {"escaped": [2, 4], "needles": [], "collapsed": []}


def test_a_gaussian_that_no_pixel_sees_gets_no_gradient_and_has_escaped():
    parameters, adam = make_set((6, 6))
    parameters.means[3] = 5.0
    wide = replace(parameters.quantizers.means, low=-8.0, high=8.0, bits=12)  # the usual ones keep centres inside
    parameters.quantizers = replace(parameters.quantizers, means=wide)
    for _ in range(2):
        step(parameters, adam)
    parameters.means[3] = 0.0  # by its place alone it would pass
    assert failed(examine(parameters, adam))["escaped"] == [3]


def test_one_attribute_with_a_gradient_is_enough_and_rows_without_steps_are_not_judged():
    parameters, adam = healthy()
    for name in adam.second:
        adam.second[name][1:4] = 0.0
    adam.second["shear"][2] = 0.7
    adam.steps[3] = 0.0
    assert failed(examine(parameters, adam))["escaped"] == [1]
    adam.steps[:] = 0.0
    assert failed(examine(parameters, adam))["escaped"] == []


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, 1.3])
@pytest.mark.parametrize(("ratio", "needle"), [(9.7, False), (10.3, True)])
def test_needles_are_told_by_the_axes_whatever_their_direction(angle, ratio, needle):
    parameters, adam = healthy()
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    lower = np.linalg.cholesky(turn @ np.diag([(0.8 * ratio) ** 2, 0.8**2]) @ turn.T)
    parameters.log_scales[7] = torch.from_numpy(np.log2(np.diag(lower)))
    parameters.shear[7] = lower[1, 0]
    assert failed(examine(parameters, adam))["needles"] == ([7] if needle else [])


@pytest.mark.parametrize(("steps", "collapsed"), [(0.4, True), (-0.4, True), (0.6, False), (-0.6, False)])
def test_collapsed_means_less_than_half_a_quantisation_step_at_the_brightest_pixel(steps, collapsed):
    parameters, adam = healthy()
    colors = parameters.quantizers.colors
    step = (colors.high - colors.low) / (2**colors.bits - 1)
    parameters.log_scales[:] = 4.0  # as wide as the image: the prefilter takes nothing away
    parameters.colors[8] = torch.tensor([0.0, 2.0 * steps * step, 0.1 * step])
    parameters.opacities[8] = 0.5
    assert failed(examine(parameters, adam))["collapsed"] == ([8] if collapsed else [])


def test_the_peak_of_a_small_gaussian_is_what_the_renderer_shows():
    parameters, adam = healthy((1,))
    parameters.means[:] = torch.tensor([[1 / 16, 1 / 12]])  # the centre of a pixel of 12 x 16
    parameters.log_scales[:] = torch.tensor([[-3.0, -2.0]])
    parameters.shear[:] = 0.2
    parameters.colors[:] = 1.0
    peak = float(shown(parameters).max())
    colors = parameters.quantizers.colors
    half = (colors.high - colors.low) / (2**colors.bits - 1) / 2
    assert 0.01 < peak < 0.7
    for factor, collapsed in ((0.99, 1), (1.01, 0)):
        parameters.colors[:] = factor * half / peak
        assert examine(parameters, adam).counts()["collapsed"] == collapsed


def test_recycled_gaussians_start_again_where_the_picture_is():
    parameters, adam = healthy()
    parameters.means[0] = 1.5
    parameters.colors[6:8] = 1e-4
    parameters.colors[12:15] = 3.0  # the most important ones
    before = shown(parameters)
    assert recycle(parameters, adam, examine(parameters, adam).dead) == 3
    assert parameters.counts.tolist() == [4, 1, 12]
    health = examine(parameters, adam)
    assert health.counts() == {"gaussians": 17, "escaped": 0, "needles": 0, "collapsed": 0}
    assert int((adam.steps == 0).sum()) == 6  # both halves of each that was split
    assert float((shown(parameters) - before)[1:].abs().mean()) < 0.05 * float(before[1:].abs().mean())


def test_an_image_keeps_its_last_gaussian():
    parameters, adam = healthy((2, 1, 3))
    parameters.colors[:3] = torch.tensor([[1e-5], [1e-4], [1e-4]])
    assert recycle(parameters, adam, examine(parameters, adam).dead) == 1
    assert parameters.counts.tolist()[:2] == [1, 1]
    assert parameters.num_gaussians == 6
    assert float(parameters.colors[0, 0]) == pytest.approx(1e-4)  # the more important one stayed


def test_nothing_dead_changes_nothing():
    parameters, adam = healthy()
    before = parameters.state()
    assert recycle(parameters, adam, examine(parameters, adam).dead) == 0
    assert all(torch.equal(before[name], value) for name, value in parameters.state().items())


def entry(iteration, escaped=0, needles=0, collapsed=0, gaussians=1000):
    counts = {"gaussians": gaussians, "escaped": escaped, "needles": needles, "collapsed": collapsed}
    return {"iteration": iteration} | counts


def test_a_warning_comes_when_a_kind_has_grown_and_not_again_until_it_grows_further():
    history = [entry(0, 5, 40)]
    assert warning(history) == ""
    history.append(entry(100, 15, 60))  # 10 more of 1,000 are not more than one per cent, 20 are
    assert warning(history) == (
        "iteration 100: of 1,000 Gaussians, from 40 to 60 needles (one axis more than 10 times the other)"
        "; --recycle re-seeds escaped and collapsed ones"
    )
    history.append(entry(200, 16, 65))
    assert "from 5 to 16 escaped" in warning(history)
    assert "needles" not in warning(history)
    history.append(entry(300, 16, 65, 3))
    assert warning(history) == ""
    history.append(entry(400, 2, 71, 80))
    assert "from 60 to 71 needles" in warning(history)
    assert "0 to 80 collapsed" in warning(history)
    assert "recycle" not in warning(history, recycles=True)
    assert "\n" not in warning(history)


def test_the_drawing_is_a_png_where_matplotlib_is_and_nothing_elsewhere(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    history = [entry(0, 5), entry(100, 9), entry(200, 30, 4)]
    assert draw(history, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(monitors.importlib.util, "find_spec", lambda name: None)
    assert not draw(history, tmp_path / "y.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
