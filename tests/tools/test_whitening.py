from __future__ import annotations

import numpy as np
import pytest
import torch

from gsdata_tools import whitening
from gsdata_tools.usage import UsageError
from gsdata_tools.whitening import Whitening, epsilon_of


def pictures(count: int = 300) -> np.ndarray:
    """Smooth images, whose pixels are correlated."""
    rng = np.random.default_rng(0)
    waves = np.cumsum(np.cumsum(rng.normal(0, 9, (count, 5, 6, 3)), axis=1), axis=2)
    return np.clip(waves + 128, 0, 255).astype(np.uint8)


def as_floats(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize("epsilon", [0.1, 0.001])
def test_it_is_the_transform_that_kornia_fits(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from kornia.enhance import ZCAWhitening

    monkeypatch.setattr(whitening, "_PART", 70)
    images = pictures()
    expected = ZCAWhitening(eps=epsilon).fit(as_floats(images))(as_floats(images[:20]))
    found = Whitening.fit(images, epsilon).apply(as_floats(images[:20]))
    assert found.shape == (20, 3, 5, 6)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_whitened_values_are_uncorrelated_and_have_no_mean() -> None:
    images = pictures()
    flat = Whitening.fit(images, 1e-6).apply(as_floats(images)).flatten(1)
    assert float(flat.mean(dim=0).abs().max()) < 1e-3
    covariance = torch.cov(flat.T)
    assert float((covariance - torch.eye(len(covariance))).abs().max()) < 0.05


def test_gradients_pass() -> None:
    images = as_floats(pictures(40)).requires_grad_()
    fitted = Whitening.fit(pictures())
    (gradient,) = torch.autograd.grad(fitted.apply(images)[3, 1, 2, 4], images)
    torch.testing.assert_close(gradient[3].flatten(), fitted.matrix[:, 30 + 2 * 6 + 4])


def test_what_cannot_be_whitened_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 4,096 values"):
        Whitening.fit(np.zeros((2, 40, 40, 3), np.uint8))
    assert epsilon_of({}) == 0.1
    assert epsilon_of({"epsilon": 0.5}) == 0.5
    for bad in (0, -1, "x", True, None):
        with pytest.raises(UsageError, match="positive"):
            epsilon_of({"epsilon": bad})
