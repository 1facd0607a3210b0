"""The pool: how many threads, in what order, what happens to errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from gsdata.kernels.threads import num_threads, parallel


def test_count_follows_the_environment_then_torch(monkeypatch):
    monkeypatch.setenv("GSDATA_NUM_THREADS", "5")
    assert num_threads() == 5
    monkeypatch.delenv("GSDATA_NUM_THREADS")
    assert num_threads() == torch.get_num_threads()
    monkeypatch.delitem(sys.modules, "torch")
    assert num_threads() == os.cpu_count()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_bad_count(monkeypatch, text):
    monkeypatch.setenv("GSDATA_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"GSDATA_NUM_THREADS must be a positive integer, found '{text}'"):
        num_threads()


def test_results_keep_their_order_and_use_several_threads():
    names = set()

    def slow_square(value: int) -> int:
        names.add(threading.get_ident())
        time.sleep(0.01 * (7 - value))
        return value * value

    assert parallel(slow_square, range(7), threads=3) == [0, 1, 4, 9, 16, 25, 36]
    assert len(names) == 3
    assert threading.get_ident() not in names


def test_nested_calls_do_not_wait_for_themselves():
    assert parallel(lambda i: sum(parallel(lambda j: i * j, range(4), threads=2)), range(6), threads=2) == [
        6 * i for i in range(6)
    ]


def test_the_first_error_comes_back_after_all_have_ended():
    ended = []

    def work(value: int) -> None:
        if value in (1, 2):
            raise KeyError(value)
        time.sleep(0.02)
        ended.append(value)

    with pytest.raises(KeyError, match="1"):
        parallel(work, range(5), threads=2)
    assert sorted(ended) == [0, 3, 4]
    assert parallel(str, range(3), threads=2) == ["0", "1", "2"]


def test_pool_does_not_keep_the_process_alive():
    code = "from gsdata.kernels.threads import parallel; parallel(str, range(9), threads=3)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False).returncode == 0
