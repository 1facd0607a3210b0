from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from gsdata_tools.draws import rng
from gsdata_tools.models import build
from gsdata_tools.train import (
    PROTOCOLS,
    Normalization,
    Protocol,
    TrainingSet,
    accuracy,
    batch_indices,
    choose_protocol,
    for_network,
    train,
)
from gsdata_tools.usage import UsageError

TINY = Protocol("tiny", steps=12, epochs=None, batch_size=16, lr=0.03, augment="crop_flip")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, above all where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stripes(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that a network can tell apart: horizontal and vertical stripes, with noise."""
    rng = np.random.default_rng(1)
    labels = np.arange(count, dtype=np.int64) % 2
    wave = 128 + 90 * np.sign(np.sin(np.arange(8) * np.pi / 2 + 0.1))
    images = np.where(labels[:, None, None] == 0, wave[None, :, None], wave[None, None, :])[..., None]
    return np.clip(images + rng.normal(0, 25, (count, 8, 8, 1)), 0, 255).astype(np.uint8), labels


def run(seed: int = 0, protocol: Protocol = TINY, labels: torch.Tensor | None = None) -> torch.nn.Module:
    images, hard = stripes()
    data = TrainingSet.from_uint8(images, hard)
    if labels is not None:
        data = TrainingSet(data.images, labels)
    return train(data, protocol, Normalization.of(images), model="ConvNet-D2", classes=2, seed=seed)


def weights(network: torch.nn.Module) -> bytes:
    return b"".join(p.detach().contiguous().numpy().tobytes() for p in network.parameters())


def test_two_runs_are_equal_byte_for_byte_and_other_seeds_differ() -> None:
    torch.manual_seed(0)
    first = weights(run())
    torch.manual_seed(1)
    assert weights(run()) == first
    assert weights(run(seed=1)) != first


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_network_learns_what_can_be_learned(name: str) -> None:
    images, labels = stripes(80)
    unit = Normalization.of(images)
    data = TrainingSet.from_uint8(images[:40], labels[:40])
    protocol = replace(PROTOCOLS[name], steps=20, epochs=None, batch_size=20, augment="crop_cutout")
    network = train(data, protocol, unit, model="ConvNet-D2", classes=2, seed=0)
    assert accuracy(network, images[40:], labels[40:], unit, batch_size=7) > 95
    assert accuracy(network, images[40:], 1 - labels[40:], unit) < 5


def test_soft_labels_that_are_certain_equal_hard_ones() -> None:
    _, hard = stripes()
    soft = torch.nn.functional.one_hot(torch.from_numpy(hard), 2).float()
    # Cross-entropy of probabilities sums in another order: equal to rounding, far from another run.
    networks = (run(), run(labels=soft), run(seed=1))
    expected, same, other = (network.get_parameter("classifier.weight").detach() for network in networks)
    assert float((same - expected).abs().max()) < 0.02 * float((other - expected).abs().max())


def test_soft_labels_are_trained_towards() -> None:
    images, hard = stripes()
    data, unit = TrainingSet.from_uint8(images, hard), Normalization.of(images)
    soft = torch.full((len(hard), 2), 0.3)
    soft[torch.arange(len(hard)), torch.from_numpy(hard)] = 0.7
    data = TrainingSet(data.images, soft)
    protocol = replace(TINY, steps=60, augment="none", weight_decay=0.0)
    network = train(data, protocol, unit, model="ConvNet-D2", classes=2, seed=0)
    with torch.no_grad():
        said = network(unit.apply(data.images)).softmax(dim=1)
    assert float((said - soft).abs().mean()) < 0.05


def small_images(count: int = 24) -> tuple[TrainingSet, Normalization]:
    images, labels = stripes(count)
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    return TrainingSet.from_uint8(larger, labels), Normalization.of(larger)


@pytest.mark.parametrize("model", ["AlexNet", "ResNet18", "ViT"])
def test_other_networks_train_reproducibly_and_leave_the_global_state_alone(model: str) -> None:
    data, unit = small_images()
    protocol = for_network(replace(TINY, batch_size=6), model)
    results = []
    for state in (1, 2):  # dropout must not depend on the caller's state
        torch.manual_seed(state)
        before = torch.get_rng_state()
        network = train(data, protocol, unit, model=model, classes=2, seed=0, steps=3)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(network))
    assert results[0] == results[1]


def test_dropout_is_drawn_anew_in_each_step_and_off_in_tests() -> None:
    data, unit = small_images()
    seen: list[float] = []
    network = train(
        data,
        replace(for_network(TINY, "ViT"), lr=0.0, augment="none", batch_size=24),
        unit,
        model="ViT",
        classes=2,
        seed=0,
        steps=2,
        progress=lambda done, loss: seen.append(loss),
    )
    assert abs(seen[0] - seen[1]) > 1e-4  # the same images and weights
    images, labels = (data.images * 255).byte().permute(0, 2, 3, 1).numpy(), data.labels.numpy()
    state = torch.get_rng_state()
    assert accuracy(network, images, labels, unit) == accuracy(network, images, labels, unit)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training


def test_networks_get_the_optimiser_that_the_protocol_has_for_them() -> None:
    fast, gsdd = PROTOCOLS["fast"], PROTOCOLS["gsdd"]
    for protocol in (fast, gsdd):
        assert for_network(protocol, "ConvNet-D5") == protocol
        assert for_network(protocol, "ViT").optimizer == "adam"
    rates = {name: for_network(gsdd, name).lr for name in ("AlexNet", "VGG11", "ResNet18", "ViT")}
    assert rates == {"AlexNet": 1e-3, "VGG11": 1e-2, "ResNet18": 1e-2, "ViT": 5e-5}
    assert {for_network(gsdd, name).schedule for name in rates} == {"cosine"}
    quick = {name: (for_network(fast, name).optimizer, for_network(fast, name).lr) for name in rates}
    assert quick == {
        "AlexNet": ("sgd", 0.03),
        "VGG11": ("sgd", 0.003),
        "ResNet18": ("sgd", 0.01),
        "ViT": ("adam", 5e-4),
    }
    assert for_network(gsdd, "ViT", lr=0.5).lr == for_network(fast, "ConvNet-D3", lr=0.5).lr == 0.5


def test_the_network_can_be_looked_at_after_every_step() -> None:
    images, labels = stripes()
    data, unit = TrainingSet.from_uint8(images, labels), Normalization.of(images)
    seen: list[tuple[int, bytes]] = []

    def look(done: int, network: torch.nn.Module) -> None:
        accuracy(network, images, labels, unit)
        seen.append((done, weights(network)))

    network = train(data, TINY, unit, model="ConvNet-D1", classes=2, seed=0, steps=3, after=look)
    assert [done for done, _ in seen] == [1, 2, 3]
    assert seen[-1][1] == weights(network)
    assert weights(train(data, TINY, unit, model="ConvNet-D1", classes=2, seed=0, steps=3)) == weights(network)


def test_the_caller_is_told_every_step() -> None:
    images, labels = stripes()
    seen: list[tuple[int, float]] = []
    train(
        TrainingSet.from_uint8(images, labels),
        TINY,
        Normalization.of(images),
        model="ConvNet-D1",
        classes=2,
        seed=0,
        steps=5,
        progress=lambda done, loss: seen.append((done, loss)),
    )
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5]
    assert all(np.isfinite(loss) for _, loss in seen)


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (3, 8), (16, 16), (7, 1), (100, 30)])
def test_batches_are_full_and_use_every_image_equally_often(count: int, batch: int) -> None:
    steps = 4 * count
    drawn = [batch_indices(count, batch, 3, step) for step in range(steps)]
    assert {len(b) for b in drawn} == {batch}
    row = np.concatenate(drawn)
    for start in range(0, len(row), count):
        assert sorted(row[start : start + count].tolist()) == list(range(count))
    assert row[:count].tolist() != row[count : 2 * count].tolist() or count < 4


def test_protocols_are_the_documented_ones() -> None:
    fast, gsdd = PROTOCOLS["fast"], PROTOCOLS["gsdd"]
    assert (fast.steps, fast.batch_size, fast.momentum, fast.weight_decay) == (300, 128, 0.9, 5e-4)
    assert [fast.total_steps(n) for n in (10, 5000)] == [300, 300]
    assert (gsdd.epochs, gsdd.batch_size, gsdd.lr, gsdd.momentum, gsdd.weight_decay) == (1001, 256, 0.01, 0.9, 5e-4)
    assert (gsdd.augment, gsdd.augment_mode, gsdd.nesterov) == ("color_crop_cutout_flip_scale_rotate", "single", False)
    assert [gsdd.total_steps(n) for n in (10, 256, 257)] == [1001, 1001, 2002]
    assert [gsdd.rate(step, 1001) for step in (0, 501, 502, 1000)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert [gsdd.rate(step, 2002) for step in (1003, 1004)] == pytest.approx([0.01, 0.001])
    assert [gsdd.passes(2002, 300), fast.passes(300, 384)] == [1001, 100]
    halved = choose_protocol("gsdd", steps=10)
    assert [halved.rate(step, 10) for step in (4, 5)] == pytest.approx([0.01, 0.001])
    rates = [fast.rate(step, 300) for step in range(300)]
    assert max(rates) == fast.lr == rates[30]
    assert rates[0] < rates[10] < rates[29]
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[-1] < 0.001 * fast.lr


def test_the_published_protocol_is_the_published_loop() -> None:
    """Written out as the code that came with arXiv:2006.05929 does it, but for its random numbers."""
    images, labels = stripes(10)
    unit = Normalization.of(images)
    data = TrainingSet.from_uint8(images, labels)
    protocol = replace(PROTOCOLS["gsdd"], epochs=21, batch_size=4, augment="none")
    trained = train(data, protocol, unit, model="ConvNet-D1", classes=2, seed=3)

    last = 20
    lr, network = 0.01, build("ConvNet-D1", 1, 2, (8, 8), seed=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=0.0005)
    x = unit.apply(data.images).to(memory_format=torch.channels_last)
    for epoch in range(last + 1):
        order = torch.from_numpy(rng(3, "order", epoch).permutation(10))
        for batch in order.split(4):
            loss = torch.nn.functional.cross_entropy(network(x[batch]), data.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch == last // 2 + 1:
            lr *= 0.1
            optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=0.0005)
    for found, expected in zip(trained.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_protocols_can_be_changed_by_name() -> None:
    assert choose_protocol("gsdd", steps=7).total_steps(10_000) == 7
    assert choose_protocol("fast", augment="dsa:crop_flip").augment == "crop_flip"
    assert choose_protocol("fast", augment="").augment == "none"
    with pytest.raises(UsageError, match="fast or gsdd"):
        choose_protocol("slow")
    with pytest.raises(UsageError, match="unknown operation"):
        choose_protocol("fast", augment="mixup")


def test_normalization_is_per_channel() -> None:
    images = np.random.default_rng(0).integers(0, 200, (5, 6, 7, 3), dtype=np.uint8)
    images[..., 2] = 51
    unit = Normalization.of(images)
    out = unit.apply(TrainingSet.from_uint8(images, np.zeros(5, np.int64)).images)
    assert torch.allclose(out.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(out[:, :2].std(dim=(0, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    assert unit.mean[2] == pytest.approx(0.2)
    assert unit.std[2] == 1.0
