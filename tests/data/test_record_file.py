"""Records read one by one from a split on disk, and several data sets as one."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from vldistill.data import artifact, records
from vldistill.data.batch import RecordSource
from vldistill.data.datasets import Example, MixedDataset
from vldistill.data.records import Record, RecordFile, line_starts, mapped, read_records
from vldistill.errors import InputError

RECORDS = [Record(f"r{number}", "caption", [f"{number}.jpg"], ["ein", "Bär\u2028", "x" * number]) for number in range(7)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{record.to_json()}\n" for record in RECORDS), encoding="utf-8")
    return path


@pytest.mark.parametrize("chunk", [3, 64, 1 << 24])
def test_lines_are_found_whatever_the_size_of_a_chunk(path, chunk, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", chunk)
    starts = line_starts(path)
    content = path.read_bytes()
    lines = [content[start:end] for start, end in pairwise(starts)]
    assert lines == content.splitlines(keepends=True) and len(lines) == 7


def test_a_last_line_without_end_counts(path):
    path.write_bytes(path.read_bytes()[:-1])
    assert list(RecordFile(path)) == RECORDS


def test_records_are_those_of_the_plain_reader_in_any_order(path):
    records = RecordFile(path)
    assert len(records) == 7 and [records[place] for place in (6, 0, 3, 3)] == [RECORDS[place] for place in (6, 0, 3, 3)]
    assert list(records) == read_records(path) and list(RecordFile(path, limit=3)) == RECORDS[:3]
    with pytest.raises(IndexError):
        RecordFile(path, limit=3)[3]


def test_another_process_opens_the_file_for_itself(path):
    records = RecordFile(path)
    assert records[1].id == "r1"
    assert pickle.loads(pickle.dumps(records))[4].id == "r4"


def test_a_broken_line_is_named(path):
    path.write_bytes(path.read_bytes().replace(b'"r2"', b'"r2'))
    records = RecordFile(path)
    assert records[1].id == "r1"
    with pytest.raises(InputError, match=r"train\.jsonl:3: is not a record"):
        records[2]


def test_what_is_held_is_mapped_at_once_and_what_is_not_when_it_is_asked_for(path):
    calls = []

    def name(record: Record) -> str:
        calls.append(record.id)
        return record.id.upper()

    assert mapped(name, RECORDS) == [f"R{number}" for number in range(7)] and len(calls) == 7
    lazy = mapped(name, RecordFile(path))
    assert len(lazy) == 7 and len(calls) == 7
    assert lazy[5] == "R5" and calls[7:] == ["r5"]


def test_large_splits_are_streamed_and_small_ones_held(world, monkeypatch):
    data = artifact.open_data(Path("artifacts/data/toy-coco"))
    held = data.stream("train")
    assert isinstance(held, list)
    monkeypatch.setattr(artifact, "LARGE", 10)
    streamed = data.stream("train")
    assert isinstance(streamed, RecordFile) and list(streamed) == held
    assert data.stream("train", limit=5) == held[:5]


# --- mixing ---------------------------------------------------------------------------------------------------------------


class Part:
    """Stands for a dataset: its example says what it was asked for."""

    visual, pad_id, classes = "visual", 0, None

    def __init__(self, name: str, count: int):
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> Example:
        return Example(f"{self.name}{key}", [], [], None, RecordSource(("1.jpg",), ()))


def seen(mixed: MixedDataset, epoch: int) -> list[str]:
    return [mixed[epoch, index].id for index in range(len(mixed))]


def test_an_epoch_has_each_record_as_often_as_its_weight_says():
    mixed = MixedDataset([(Part("a", 4), 1.0), (Part("b", 3), 2.0), (Part("c", 6), 0.5)])
    assert mixed.shares == [4, 6, 3] and len(mixed) == 13 and mixed.visual == "visual"
    first = seen(mixed, 0)
    assert first[:4] == [f"a(0, {row})" for row in range(4)]
    # The second time round is a pass of its own, so it is augmented otherwise.
    assert first[4:10] == [f"b({go}, {row})" for go in range(2) for row in range(3)]
    assert first[10:] + seen(mixed, 1)[10:] == [f"c(0, {row})" for row in range(6)]
    assert seen(mixed, 2)[10] == "c(1, 0)" and seen(mixed, 1)[4] == "b(2, 0)"


def test_no_record_comes_again_before_all_have_come():
    mixed = MixedDataset([(Part("a", 5), 0.7)])
    asked = [mixed.locate(epoch, index)[1][1] for epoch in range(5) for index in range(len(mixed))]
    assert [set(asked[start : start + 5]) for start in range(0, 20, 5)] == [{0, 1, 2, 3, 4}] * 4
    assert max(Counter(asked).values()) - min(Counter(asked).values()) <= 1


def test_equal_paths_of_two_parts_are_two_images():
    mixed = MixedDataset([(Part("a", 1), 1.0), (Part("b", 1), 1.0)])
    assert [mixed[0, index].source.images for index in range(2)] == [("0:1.jpg",), ("1:1.jpg",)]


def test_an_image_that_cannot_be_read_stays_an_error():
    class Broken(Part):
        def __getitem__(self, key):
            return InputError("cannot be read", where="1.jpg")

    assert isinstance(MixedDataset([(Broken("a", 2), 1.0)])[0, 1], InputError)
