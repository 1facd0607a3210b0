"""Changes at random: the same again, of every kind, and what every reading of them must keep to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings

import gsdata
from files import same_content
from gsdata import forging, mutating, testing
from gsdata.errors import ChecksumError, GsdError
from hostile import good_or_refused, small_file


@settings(max_examples=40)
@given(testing.damaged_files())
def test_whatever_it_is_it_is_right_or_refused(data):
    good_or_refused(data)


@pytest.mark.parametrize("kind", mutating.KINDS)
def test_the_same_generator_makes_the_same_mutants(kind):
    made = [
        [mutating.mutate(small_file(), rng, kind) for _ in range(12)] for rng in (random.Random(3), random.Random(3))
    ]
    assert made[0] == made[1]
    assert len({mutant.data for mutant in made[0]}) > 6
    assert {mutant.kind for mutant in made[0]} == {kind}


def test_all_but_damaged_files_have_right_checksums():
    good, rng = small_file(), random.Random(0)
    found = {}
    for kind in mutating.KINDS:
        for _ in range(60):
            data = mutating.mutate(good, rng, kind).data
            try:
                gsdata.open(data).verify()
            except ChecksumError:
                # Only where the table itself was changed after its checksums were made.
                assert kind in ("damaged", "repaired")
                found[kind] = found.get(kind, 0) + 1
            except GsdError:
                pass
    assert found["damaged"] > 20
    assert found.get("repaired", 0) < 15


def test_codes_are_changed_in_good_files_too():
    good, rng = small_file(), random.Random(1)
    read = []
    for _ in range(60):
        try:
            file = gsdata.open(mutating.mutate(good, rng, "codes").data)
            file.verify()
        except GsdError:
            continue
        read.append(file)
    assert any(not same_content(file.codes(), gsdata.open(good).codes()) for file in read)
    assert {section.codec for file in read for section in file.sections} == {0, 1, 2}


def test_frames_that_were_changed_are_told():
    good, rng = small_file(), random.Random(2)
    mutants = [mutating.mutate(good, rng, "repaired") for _ in range(200)]
    assert 10 < sum(not mutant.whole_frames for mutant in mutants) < 190


def test_what_is_no_file_cannot_be_changed_in_its_meaning():
    for kind in ("header", "codes"):
        with pytest.raises(ValueError, match=f"no file to change its {kind}"):
            mutating.mutate(b"nothing", random.Random(0), kind)
    assert mutating.mutate(b"nothing", random.Random(0), "repaired").data != b"nothing"


def test_repairing_gives_a_good_file_again():
    good = small_file()
    assert forging.repair(good) == good
    wrong = bytearray(good)
    wrong[24:36] = bytes(12)
    assert forging.repair(bytes(wrong)) == good
    file = gsdata.open(good)
    at = next(section.offset for section in file.sections if section.name == "test.note")
    start = file.sections[0].offset - 28 * len(file.sections)
    wrong[start + 16 : start + 20] = bytes(4)
    assert forging.repair(bytes(wrong)) == good
    with pytest.raises(GsdError):
        gsdata.open(forging.repair(bytes(wrong[:at])))
    assert forging.repair(b"short") == b"short"
