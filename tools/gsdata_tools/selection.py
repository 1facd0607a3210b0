"""Choosing among the states of a network while it trains, by images that are not the test images."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn


def moments(total: int, count: int) -> tuple[int, ...]:
    """At most ``count`` evenly spaced numbers of steps, the last of them ``total``."""
    return tuple(sorted({-(-total * k // count) for k in range(1, count + 1)}))


class Selector:
    """Scores a network at some moments of its training and keeps the best state; of equal ones, the later.

    Passed to ``train.train`` as ``after``; ``restore`` then puts the best state back.

    Attributes:
        step: steps after which the best state was seen; 0 before the first moment.
        score: what ``score`` said of it.
    """

    def __init__(self, moments: tuple[int, ...], score: Callable[[nn.Module], float]) -> None:
        self._moments, self._score = frozenset(moments), score
        self._state: dict[str, torch.Tensor] = {}
        self.step, self.score = 0, float("-inf")

    def __call__(self, done: int, network: nn.Module) -> None:
        """Score the network if this is one of the moments."""
        if done in self._moments and (score := self._score(network)) >= self.score:
            self.step, self.score = done, score
            self._state = copy.deepcopy(network.state_dict())

    def restore(self, network: nn.Module) -> None:
        """Give the network the best state that was seen."""
        network.load_state_dict(self._state)
