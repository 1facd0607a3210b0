from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from gsdata.order import Order, draw, permutation

M0, M1, W0, W1, WORD = 0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B, 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10, written from the paper."""
    for _ in range(10):
        first, second = M0 * counter[0], M1 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & WORD,
            (first >> 64) ^ counter[3] ^ key[1],
            first & WORD,
        ]
        key = [(key[0] + W0) & WORD, (key[1] + W1) & WORD]
    return counter


def test_philox_is_that_of_the_paper():
    # The published known answers of Philox4x64-10.
    assert philox([0] * 4, [0] * 2)[0] == 0x16554D9ECA36314C
    assert philox([WORD] * 4, [WORD] * 2)[0] == 0x87B092C3013FE90B


@given(st.integers(0, WORD), st.integers(0, WORD), st.integers(0, WORD), st.integers(0, 30))
def test_draws_are_what_the_document_says(seed, epoch, item, count):
    purpose = zlib.crc32(b"order")
    blocks = [philox([i + 1, 0, item, purpose], [seed, epoch]) for i in range(-(-count // 4))]
    assert draw(count, seed, epoch, "order", item).tolist() == [word for block in blocks for word in block][:count]


def test_an_order_for_good():
    # Of a run that users may have to repeat: these numbers never change.
    assert permutation(10, seed=0, epoch=0).tolist() == GOLDEN[0]
    assert permutation(10, seed=0, epoch=1).tolist() == GOLDEN[1]
    assert permutation(10, seed=1, epoch=0).tolist() == GOLDEN[2]


GOLDEN = [[8, 7, 9, 0, 4, 5, 3, 2, 6, 1], [4, 0, 1, 6, 9, 7, 8, 3, 2, 5], [0, 4, 8, 6, 3, 5, 7, 2, 9, 1]]


def test_permutations_are_uniform():
    first = Counter(int(permutation(5, 0, epoch)[0]) for epoch in range(2000))
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert max(first.values()) < 480  # 400 expected, standard deviation 18
    pairs = Counter(tuple(permutation(3, seed, 0).tolist()) for seed in range(1200))
    assert len(pairs) == 6
    assert min(pairs.values()) > 140


sizes = st.integers(0, 60)
worlds = st.integers(1, 9)


def every(images, world, uneven, epoch=3, **options):
    return [Order(images, True, 7, rank, world, uneven, **options).epoch(epoch).tolist() for rank in range(world)]


@given(sizes, worlds)
def test_exact_loses_and_repeats_nothing(images, world):
    parts = every(images, world, "exact")
    assert sorted(i for part in parts for i in part) == list(range(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(sizes, worlds)
def test_drop_repeats_nothing_and_is_even(images, world):
    parts = every(images, world, "drop")
    assert {len(part) for part in parts} == {images // world}
    flat = [i for part in parts for i in part]
    assert len(set(flat)) == len(flat) == images // world * world


@given(sizes, worlds, st.sampled_from(["pad", "drop"]), st.booleans())
def test_pad_and_drop_share_out_as_distributed_sampler_does(images, world, uneven, shuffle):
    if images == 0:
        assert every(0, world, uneven) == [[]] * world
        return
    order = permutation(images, 7, 3).tolist() if shuffle else list(range(images))
    for rank in range(world):
        sampler = DistributedSampler(range(images), world, rank, shuffle=False, drop_last=uneven == "drop")
        ours = Order(images, shuffle, 7, rank, world, uneven)
        assert ours.epoch(3).tolist() == [order[i] for i in sampler]
        assert len(ours) == len(sampler)


@given(sizes, worlds, st.sampled_from(["pad", "drop", "exact"]))
def test_every_world_takes_the_same_order(images, world, uneven):
    parts = every(images, world, uneven)
    together = [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]
    known = permutation(images, 7, 3).tolist()
    assert together[:images] == known[: len(together)]
    assert [len(Order(images, True, 7, rank, world, uneven)) for rank in range(world)] == [len(p) for p in parts]


def test_without_shuffling_all_epochs_are_alike():
    assert Order(5).epoch(0).tolist() == Order(5, seed=9).epoch(4).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"seed": -1}, "seed must be an integer from 0 to 18446744073709551615, found -1"),
        ({"rank": 2, "world_size": 2}, "rank must be an integer from 0 to 1, found 2"),
        ({"world_size": 0}, "world_size must be an integer from 1 to 2147483647, found 0"),
        ({"uneven": "even"}, "uneven must be one of pad, drop, exact, found 'even'"),
        ({"seed": True}, "seed must be an integer"),
    ],
)
def test_bad_options(options, line):
    with pytest.raises(ValueError, match=line):
        Order(5, **options)


def test_numbers_that_are_none():
    with pytest.raises(TypeError, match="rank must be an integer, found '0'"):
        Order(5, rank="0")
    assert Order(np.int64(5), rank=np.int64(1), world_size=2).epoch(0).tolist() == [1, 3, 0]
