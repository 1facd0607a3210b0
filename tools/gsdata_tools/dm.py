"""Distribution matching: move synthetic images until networks see the same mean features as in real images.

Source: B. Zhao and H. Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (arXiv:2110.04181). For each
class c, with an embedding f of a network, real images T_c, synthetic images S_c and one Siamese augmentation A for both:

    L = sum_c | mean f(A(T_c)) - mean f(A(S_c)) |^2  +  lambda * boundary loss  +  mu * bits per image

``networks="random"`` and ``classify=0`` are the published method: a fresh random network in every iteration. With
``networks="trained"`` the networks are snapshots of short trainings on the real data, whose features tell classes apart
(as in G. Zhao et al., "Improved Distribution Matching", CVPR 2023, arXiv:2307.09742, from where the additional term
``classify`` * cross-entropy of the synthetic images also comes).

Here S_c is rendered from Gaussians, through the quantisers that will store them. Every draw is keyed by (seed, purpose,
iteration, class), and no step knows how many will follow: a run that is cut short is the beginning of a longer one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import gsdata
from gsdata.augment import augment
from gsdata_tools.draws import rng
from gsdata_tools.learnable import LearnableSet, RowAdam
from gsdata_tools.methods import Method, Run, Share, StepOptions, descend, step_options
from gsdata_tools.networks import ConvNet
from gsdata_tools.rate import RateModel
from gsdata_tools.real_data import RealData

_STEPS = 0
"""What random networks of steps are drawn for."""


@dataclass(frozen=True)
class DmOptions(StepOptions):
    """What decides a distribution matching run, apart from the data and the first set.

    Attributes:
        batch_real: real images of a class in one step.
        batch_syn: most synthetic images of a class in one step; a class that has more gives a random choice.
        classes_per_step: classes in one step, taken in turn; 0 means all.
        classify: weight of the cross-entropy term.
    """

    batch_real: int = 256
    batch_syn: int = 128
    classes_per_step: int = 0
    classify: float = 0.0


class DistributionMatching(Method):
    """``gsd-distill dm``."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        own = {name: run.options[name] for name in ("batch_real", "batch_syn", "classes_per_step", "classify")}
        self.options = DmOptions(**step_options(run.options), **own)
        self.trained = run.options["networks"] == "trained"

    def step(self) -> dict[str, float]:
        """One step with a random network or one of the pool."""
        run = self.run
        if self.trained:
            network = run.pool[int(rng(run.seed, "dm-network", run.iteration).integers(len(run.pool)))]
        else:
            network = run.network(_STEPS, run.iteration)
        return dm_step(run.iteration, run.parameters, run.labels, run.adam, run.real, network, self.options, run.coding)


def classes_of(iteration: int, classes: int, per_step: int) -> list[int]:
    """Classes of one iteration: ``per_step`` of them in turn, so that all come equally often."""
    if not 0 < per_step < classes:
        return list(range(classes))
    return sorted((iteration * per_step + k) % classes for k in range(per_step))


def dm_step(
    iteration: int,
    parameters: LearnableSet,
    labels: NDArray[np.int64],
    adam: RowAdam,
    real: RealData,
    network: ConvNet,
    options: DmOptions,
    coding: RateModel | None = None,
) -> dict[str, float]:
    """One step of distribution matching; moves the Gaussians of the images it rendered.

    Args:
        iteration: number of the step, the key of its draws.
        parameters: the set, changed in place.
        labels: (B,) class of each synthetic image.
        adam: the optimiser of ``parameters``.
        real: the real images.
        network: the network of this iteration, with parameters that need no gradient.
        options: what decides the run.
        coding: what codes weigh; needed where ``options.rate`` is not 0.

    Returns:
        The loss and its parts before the step: ``loss``, ``match`` and, if used, ``classify``, ``boundary`` and ``rate``: the
        estimated bits of an image, the mean over those of this step.
    """
    classes = classes_of(iteration, len(real.members), options.classes_per_step)
    chosen = [synthetic_of(c, iteration, labels, options.batch_syn, options.seed) for c in classes]
    indices = np.concatenate(chosen)
    rows = parameters.rows(indices)
    leaves = parameters.leaves(rows)
    share = Share.of(classes, chosen, parameters, leaves)
    parts = {name: torch.zeros((), device=real.device) for name in ("match", "classify")}
    if share.classes:
        parts["match"], features = _compare(iteration, parameters, share, real, network, options)
    loss = parts["match"]
    if not options.classify:
        del parts["classify"]
    elif share.classes:
        truth = torch.from_numpy(labels[share.indices]).to(real.device)
        part = len(share.indices) / len(indices)
        parts["classify"] = functional.cross_entropy(network.classifier(features), truth) * part
        loss = loss + options.classify * parts["classify"]
    return descend(loss, parts, parameters, indices, rows, leaves, adam, options, coding)


def _compare(
    iteration: int,
    parameters: LearnableSet,
    share: Share,
    real: RealData,
    network: ConvNet,
    options: DmOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The distance of mean features of real and synthetic images, summed over classes, and the synthetic images' features."""
    # Render what the closed file would show, and augment each class as its real images are.
    rendered = gsdata.render(parameters.stored(share.leaves, parameters.counts[share.indices]))
    synthetic = torch.split(real.normalize(rendered), share.sizes)
    keys = [int(rng(options.seed, "dm-augment", iteration, c).integers(2**63)) for c in share.classes]
    seen = torch.cat([augment(s, options.augment, seed=k, siamese=True) for s, k in zip(synthetic, keys, strict=True)])

    with torch.no_grad():
        targets = []
        for c, key in zip(share.classes, keys, strict=True):
            batch = real.draw(options.batch_real, options.seed, iteration, c)
            targets.append(network.embed(augment(batch, options.augment, seed=key, siamese=True)).mean(dim=0))

    features = network.embed(seen)
    means = [f.mean(dim=0) for f in torch.split(features, share.sizes)]
    return torch.stack([(t - m).square().sum() for t, m in zip(targets, means, strict=True)]).sum(), features


def synthetic_of(label: int, iteration: int, labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Synthetic images of a class that one step renders, ascending: all, or a random ``most`` where that is not 0."""
    members = np.flatnonzero(labels == label)
    if 0 < most < len(members):
        draws = rng(seed, "dm-synthetic", iteration, label)
        members = np.sort(draws.permutation(members)[:most])
    return members
