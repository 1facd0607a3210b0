from __future__ import annotations

import resource
import sys

import pytest
import torch

from gsdata_tools.long_runs import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_taken_again_without_page_faults():
    keep_freed_memory()
    pages = 32 * 2**20 // resource.getpagesize()
    for _ in range(4):  # 32 MiB each; the first come from the kernel
        torch.ones(8 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(8 * 2**20)
    # Without it all 40 are new; with it some may be, where they lie otherwise.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 20 * pages
