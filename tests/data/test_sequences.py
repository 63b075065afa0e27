"""From records to sequences: one for each choice, joined and shortened part by part, every token knowing its word and part."""

from __future__ import annotations

import pytest

from vldistill.data.records import Record
from vldistill.data.sequences import PlainLayout, join_parts, sentences, sequences, shorten
from vldistill.data.text import train_tokenizer

OBJECTS = ["person", "cup", "person"]
QUESTION, GIVEN = ["Why", "is", [0, 2], "here", "?"], ["[1]", "fell", "."]
CHOICES = [["She", "left"], [[1], "is", "hot"], ["no"], ["it", "rains", "a", "lot"]]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [part for record in (answer(), rationale()) for sentence in sentences(record) for part in sentence]
    return train_tokenizer(texts, 200)


def answer() -> Record:
    return Record("a", "vcr", ["x.jpg"], QUESTION, choices=CHOICES, label=1, objects=OBJECTS)


def rationale() -> Record:
    return Record("a:r", "vcr", ["x.jpg"], QUESTION, choices=CHOICES, label=1, objects=OBJECTS, given=GIVEN)


def test_one_sequence_for_each_choice_and_what_was_given_stands_between():
    assert sequences(answer()) == [(QUESTION, choice) for choice in CHOICES]
    assert sequences(rationale()) == [(QUESTION, GIVEN, choice) for choice in CHOICES]
    assert sequences(Record("q", "vqa", ["x.jpg"], ["red", "?"])) == [(["red", "?"],)]


def test_a_teacher_reads_tags_as_class_and_number_from_one():
    assert sentences(answer())[1] == (("Why", "is", "person1 and person3", "here", "?"), ("cup2", "is", "hot"))


def test_tokens_know_their_word_over_all_parts_and_their_part(tokenizer):
    coded = PlainLayout(tokenizer, 60)(rationale())
    assert len(coded) == 4
    for text, parts in zip(coded, sentences(rationale()), strict=True):
        words = [word for part in parts for word in part]
        names = {index: token for token, index in tokenizer.vocabulary.items()}
        for index, word in enumerate(words):
            own = "".join(names[i].removeprefix("##") for i, w in zip(text.ids, text.words, strict=True) if w == index)
            assert own == word.lower().replace(" ", "")
        assert [text.ids.index(tokenizer.cls_id), text.ids.count(tokenizer.sep_id)] == [0, 3]
        ends = [place for place, token in enumerate(text.ids) if token == tokenizer.sep_id]
        assert text.segments == [0] * (ends[0] + 1) + [1] * (ends[1] - ends[0]) + [2] * (ends[2] - ends[1])


@pytest.mark.parametrize("length", [4, 5, 9, 14])
def test_the_longest_part_gives_way_and_the_separators_stay(tokenizer, length):
    for sentence in sentences(answer()):
        text = join_parts(tokenizer, sentence, length)
        assert len(text.ids) <= length and text.ids.count(tokenizer.sep_id) == 2
        assert len(text.ids) == len(text.words) == len(text.segments) == len(text.tags)


@pytest.mark.parametrize(
    "lengths, budget, kept",
    [
        ([5, 2, 3], 8, [3, 2, 3]),
        ([2, 2], 9, [2, 2]),
        ([4, 4], 5, [2, 3]),
        ([1, 9], 0, [0, 0]),
        ([3], -2, [0]),
        ([7, 1, 7], 9, [4, 1, 4]),
    ],
)
def test_shortening_by_hand(lengths, budget, kept):
    assert shorten(lengths, budget) == kept
