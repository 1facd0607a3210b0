from __future__ import annotations

import torch
from torch import nn

from gsdata_tools.selection import Selector, moments


def test_moments_are_even_and_end_at_the_end() -> None:
    assert moments(300, 1) == (300,)
    assert moments(10, 4) == (3, 5, 8, 10)
    assert moments(2, 5) == (1, 2)


def test_the_best_state_comes_back_and_of_equal_ones_the_later() -> None:
    network = nn.Linear(1, 1)
    scores = {2: 50.0, 4: 70.0, 6: 70.0, 8: 60.0}
    seen: list[int] = []

    def score(_: nn.Module) -> float:
        seen.append(int(network.bias.item()))
        return scores[seen[-1]]

    selector = Selector(tuple(scores), score)
    for step in range(1, 9):
        nn.init.constant_(network.bias, step)
        selector(step, network)
    assert seen == [2, 4, 6, 8]
    assert (selector.step, selector.score) == (6, 70.0)
    assert network.bias.item() == 8
    selector.restore(network)
    assert torch.equal(network.bias, torch.tensor([6.0]))
