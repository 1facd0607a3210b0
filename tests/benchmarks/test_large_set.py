"""The benchmark of 100,000 images: what it makes of what two processes saw."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gsdata
import large_set
from gsdata.shards import ShardWriter
from gsdata.testing import make_codes


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "set", "train", shard_images=7) as writer:
        for seed in range(3):
            writer.add(gsdata.to_bytes(make_codes(seed, [1] * 5), labels=np.arange(5), class_count=5))
    return tmp_path / "set"


@pytest.mark.slow
def test_two_processes_see_everything_once(folder):
    found = large_set.read_by_two(folder, workers=0, epoch=1, window=2)
    assert [found[key] for key in ("images", "lost", "seen_twice", "unknown", "lengths_differ_by")] == [15, 0, 0, 0, 1]
    assert sorted(found["images_of_processes"]) == [7, 8]


def test_what_is_lost_or_seen_twice_or_wrong_is_counted(folder, monkeypatch):
    def forge(job, report, *words, RANK, **environment):
        keys = [f"train-{g // 2:06d}-{g % 2:04d}/{i} {i}" for g in (0, 1, 2) for i in range(5)]
        own = keys[:9] if RANK == "0" else [*keys[8:14], "train-000000-0000/0 4"]
        report.with_suffix(".keys").write_text("".join(f"{key}\n" for key in own))
        report.write_text(json.dumps({"images": len(own), "seconds": 1, "first_batch_seconds": 1, "peak_mib": 1}))

    monkeypatch.setattr(large_set, "start", forge)
    monkeypatch.setattr(large_set, "finish", lambda *processes: None)
    found = large_set.read_by_two(folder, workers=0, epoch=0, window=1)
    assert [found[key] for key in ("lost", "seen_twice", "unknown", "lengths_differ_by")] == [1, 1, 1, 2]


def test_growth_is_that_of_the_highest_peak():
    assert large_set.growth([{"peak_mib": [90, 100]}, {"peak_mib": [104, 80]}]) == 0.04
    assert large_set.growth([{"peak_mib": 100}, {"peak_mib": 90}]) == -0.1
    assert large_set.peak_mebibytes() > 1
