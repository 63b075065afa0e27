"""False texts: drawn from the whole set by (seed, epoch, record), never a true one."""

from __future__ import annotations

import pytest

from vldistill.data.datasets import FalseTexts, RecordDataset
from vldistill.data.records import Record
from vldistill.data.samplers import CLEAN
from vldistill.data.sequences import PlainLayout
from vldistill.data.text import train_tokenizer
from vldistill.errors import InputError

WORDS = [f"{colour} {shape}" for colour in ("red", "blue", "green", "pale") for shape in ("circle", "square", "star")]
TOKENIZER = train_tokenizer([text.split() for text in WORDS], 90)


class NoPixels:
    """Stands for images, which do not matter here."""

    def read(self, path, draw):
        return path


def captions(texts: list[str], images: list[str], seed: int = 0) -> RecordDataset:
    records = [
        Record(str(row), "caption", [image], text.split()) for row, (text, image) in enumerate(zip(texts, images, strict=True))
    ]
    return RecordDataset(records, PlainLayout(TOKENIZER, 8), NoPixels(), pad_id=TOKENIZER.pad_id, seed=seed)


def twelve(seed: int = 0) -> RecordDataset:
    """Two captions an image; record 11 says what record 0 says, of another image."""
    return captions([*WORDS[:11], WORDS[0]], [f"{row // 2}.jpg" for row in range(12)], seed)


def test_never_the_same_image_or_an_equal_text_and_none_twice():
    data = FalseTexts(twelve(), 9)
    assert sorted(data.false(3, 0)) == list(range(2, 11))  # without its own image's 0 and 1, and without 11, which reads the same
    for epoch in range(20):
        drawn = data.false(epoch, 4)
        assert len(set(drawn)) == 9 and not {4, 5} & set(drawn)


def test_the_draw_is_of_seed_epoch_and_record_and_reaches_the_whole_set():
    data, again, other = FalseTexts(twelve(), 3), FalseTexts(twelve(), 3), FalseTexts(twelve(seed=1), 3)
    keys = [(epoch, row) for epoch in range(12) for row in (0, 6)]
    drawn = [data.false(*key) for key in reversed(keys)][::-1]
    assert drawn == [again.false(*key) for key in keys]
    assert drawn != [other.false(*key) for key in keys]
    assert len({tuple(rows) for rows in drawn[::2]}) > 6
    assert {row for rows in drawn[::2] for row in rows} == set(range(2, 11))


@pytest.mark.parametrize("epoch", [0, CLEAN])
def test_an_example_has_its_own_text_first(epoch):
    plain = twelve()
    data = FalseTexts(plain, 3)
    example = data[epoch, 6]
    assert example.target == 0 and example.id == "6" and example.views == ["3.jpg"]
    assert example.texts == [plain.texts(row)[0] for row in (6, *data.false(epoch, 6))]


def test_too_few_texts_are_refused():
    with pytest.raises(InputError, match="record 0 has 9 texts of other images"):
        FalseTexts(twelve(), 10)
    # The others' equal texts are not counted twice where image and text are both the same.
    assert len(FalseTexts(captions(["red star", "red star", "pale star"], ["a", "a", "b"]), 1).false(0, 0)) == 1
