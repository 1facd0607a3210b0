"""Changes at random: the same again, of every kind, and what every reading of them must keep to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings

import gsdata
from files import same_content
from gsdata import forging, mutating, rans, testing
from gsdata.container import MAX_WINDOW
from gsdata.errors import ChecksumError, GsdError
from gsdata.mutating import frames, models
from gsdata.mutating import header as header_changes
from hostile import good_or_refused, small_file

VECTORS = Path(__file__).parents[1] / "spec" / "vectors" / "valid"


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


def rules_of(kind: mutating.Kind, data: bytes, wanted: str) -> bool:
    """Whether some mutants of a kind are refused with a message like this one."""
    rng = random.Random(4)
    for _ in range(3000):
        try:
            gsdata.open(mutating.mutate(data, rng, kind).data).verify()
        except GsdError as error:
            if wanted in f"{type(error).__name__}: {error}":
                return True
    return False


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("header", "LimitError: <bytes>: header chunks: more than 16777216 images"),
        ("header", "LimitError: <bytes>: header sections: 65 optional sections"),
        ("header", "LimitError: <bytes>: header quantizers: number of sets must lie in 1..256"),
        ("header", "LimitError: <bytes>: header chunks: soft labels of"),
        ("header", "is too narrow for"),
        ("codes", "codes, the limit is 2048 for each"),
        ("repaired", "the file at"),
        ("repaired", "LimitError: <bytes>: section 'gaussians' of chunk 0 at offset"),
    ],
)
def test_limits_are_aimed_at(kind, wanted):
    data = (VECTORS / "codec-zstd.gsd").read_bytes()
    assert rules_of(kind, data, wanted)


def test_models_are_good_ones_and_bad_ones_of_every_kind():
    file = gsdata.open((VECTORS / "codec-rans-one-lane.gsd").read_bytes())
    layout = file._chunks.layouts(0)["gaussians"]
    raw = file._chunks.raw(0, ["gaussians"])["gaussians"]
    rng, read, said = random.Random(0), set(), set()
    for _ in range(900):
        stored = models.coded(raw, raw, layout, rng)
        try:
            if rans.decode([(stored, layout, "")]) == [raw]:
                read.add(stored)
        except GsdError as error:
            said.add(str(error))
    assert len(read) > 40
    for wanted in (
        "lanes, the limit",
        "no stream that",
        "log-weights must",
        "padded",
        "words",
        "state",
        "too large",
        "bytes after the model",
    ):
        assert any(wanted in text for text in said), wanted


def test_another_frame_header_is_read_alike_where_it_says_so():
    rng, raw = random.Random(0), bytes(range(40)) * 40
    frame, made = forging.frame(raw), {False: 0, True: 0}
    for _ in range(300):
        other, agreed = frames.changed(frame, rng)
        try:
            window = zstandard.get_frame_parameters(other).window_size
        except zstandard.ZstdError:
            window = MAX_WINDOW + 1
        if agreed and window <= MAX_WINDOW:
            assert zstandard.ZstdDecompressor().decompress(other, max_output_size=len(raw)) == raw
        made[agreed and window > MAX_WINDOW] += other != frame
    assert min(made.values()) > 30


LONG = ["x" * 5000, [0.5] * 2000, ["x" * 5000], {"x" * 5000: 1}, b"x" * 5000]


def refusal(data: bytes) -> str:
    try:
        gsdata.open(data).verify()
    except GsdError as error:
        return str(error)
    return ""


def test_whatever_a_header_says_the_message_is_short():
    header, sections = forging.take_apart((VECTORS / "recipe.gsd").read_bytes())
    said = {}
    for path in header_changes._paths(header)[1:]:
        for value in LONG:

            def put(container, key, value=value):
                container[key] = value

            other = header_changes._replaced(header, path, put)
            said[path, str(value)] = refusal(forging.put_together(header_changes.pack(other), sections))
    twice = b"\x82" + 2 * (header_changes.pack("x" * 5000) + b"\0")
    said["key twice"] = refusal(forging.put_together(twice, []))
    assert sum(text != "" for text in said.values()) > 100
    assert {where for where, text in said.items() if len(text) > 500 or "\n" in text} == set()
