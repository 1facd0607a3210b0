"""What every stream costs, beside its entropy."""

from __future__ import annotations

import numpy as np
import pytest

import gsdata
from gsdata.forging import frame, put_together, take_apart
from gsdata.testing import SET, make_codes

STREAMS = ["counts", "labels", "x", "y", "l11", "l22", "l21", "c0", "c1", "c2"]


def big_file(level: int = 19) -> bytes:
    codes = make_codes(0, [900, 0, 1300, 700], sets=(SET,))
    noise = np.random.default_rng(0).integers(-1, 2, 2900)
    codes.cholesky[:, 2] = np.clip(codes.cholesky[:, 0] + noise, 0, 63)
    codes.colors[:] = codes.colors[:, :1]  # so that c1 and c2 are always 0
    return gsdata.to_bytes(codes, labels=[1, 0, 1, 1], chunk_images=2, level=level)


def test_entropies_are_those_of_the_whole_file() -> None:
    file = gsdata.open(big_file())
    rates = {rate.name: rate for rate in file.stream_rates()}
    assert list(rates) == STREAMS
    assert [rate.section for rate in rates.values()] == ["counts", "labels", *["gaussians"] * 8]
    assert rates["labels"].codes == 4
    assert rates["labels"].entropy == pytest.approx(0.25 * 2 + 0.75 * np.log2(4 / 3))
    codes = file.codes()
    for name, column in (("y", codes.means[:, 1]), ("l21", codes.cholesky[:, 1]), ("c0", codes.colors[:, 1])):
        p = np.unique(column, return_counts=True)[1] / len(column)
        assert rates[name].codes == 2900
        assert rates[name].entropy == pytest.approx(-(p * np.log2(p)).sum())
    assert rates["c1"].entropy == 0.0


def test_coded_bits_add_up_to_the_section_and_know_contexts() -> None:
    file = gsdata.open(big_file())
    rates = file.stream_rates()
    coded = sum(rate.coded * rate.codes for rate in rates if rate.section == "gaussians" and rate.coded is not None)
    sections = [section for section in file.sections if section.name == "gaussians"]
    stored = 8 * sum(section.stored_size for section in sections)
    assert [section.codec for section in sections] == [2, 2]
    # Beside its streams, a section has a byte of lanes and padding, and 8 lanes of at most 32 bits (2 and 4 here).
    assert 0 < stored - coded < 2 * 8 * 2 + 32 * (8 + 2)
    by_name = {rate.name: rate for rate in rates}
    assert by_name["l11"].coded == pytest.approx(by_name["l11"].entropy, rel=0.05)
    assert by_name["l22"].coded is not None
    assert by_name["l22"].coded < by_name["l22"].entropy - 1  # sixteen contexts know it


def test_stored_and_zstd_sections() -> None:
    plain = {rate.name: rate.coded for rate in gsdata.open(big_file(level=0)).stream_rates()}
    assert plain == {name: 16.0 if name == "counts" else 8.0 for name in STREAMS}
    header, sections = take_apart(big_file(level=0))
    for section in sections:
        if section[0] == header["sections"].index("gaussians") and section[3] == 0:
            section[1], section[4] = 1, frame(section[4])
    packed = gsdata.open(put_together(header, sections))
    rates = packed.stream_rates()
    assert [rate.coded for rate in rates] == [16.0, 8.0, *[None] * 8]
    assert [rate.entropy for rate in rates] == [rate.entropy for rate in gsdata.open(big_file()).stream_rates()]


def test_nothing_costs_nothing() -> None:
    assert gsdata.open(gsdata.to_bytes(make_codes(0, []))).stream_rates() == []
    rates = gsdata.open(gsdata.to_bytes(make_codes(0, [0, 0]))).stream_rates()
    assert [(rate.codes, rate.entropy, rate.coded) for rate in rates[1:]] == [(0, 0.0, 0.0)] * 8
