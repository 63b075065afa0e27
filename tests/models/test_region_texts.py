"""UNITER's and VL-BERT's layouts of VCR, VQA and SNLI-VE text, token by token."""

from __future__ import annotations

import pytest

from vldistill.data.records import Record
from vldistill.data.text import train_tokenizer
from vldistill.models.uniter.texts import UniterLayout
from vldistill.models.vlbert.texts import NAMES, VlBertLayout, object_names

OBJECTS = ["person", "cup", "person"]
QUESTION, ANSWERS, GIVEN = ["why", "is", [2, 0], "here"], [["no"], [[1], "fell"], ["it", "is"], ["here"]], [[1], "is"]
WORDS = ["why", "is", "here", "no", "fell", "it", "cup", "and", *(name.lower() for name in NAMES)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS] * 30, 400)


def record(**fields) -> Record:
    return Record("val-0", "vcr", ["x.jpg"], QUESTION, choices=ANSWERS, label=1, objects=OBJECTS, **fields)


def spelled(tokenizer, text) -> list[str]:
    names = {index: token for token, index in tokenizer.vocabulary.items()}
    return [names.get(index, f"person_{index - len(names)}") for index in text.ids]


def test_uniter_on_vcr(tokenizer):
    text = UniterLayout(tokenizer, 40)(record())[1]
    assert spelled(tokenizer, text) == ["[CLS]", "why", "is", "person_2", "person_0", "here", "[SEP]", "cup", "fell", "[SEP]"]
    assert text.segments == [0, 0, 0, 0, 0, 0, 2, 2, 2, 2]  # the separator before the answer counts with it
    assert text.words == [None, 0, 1, 2, 2, 3, None, 4, 5, None]  # a tag is one word, whatever its tokens
    assert text.tags == [None, None, None, 2, 0, None, None, 1, None, None]
    text = UniterLayout(tokenizer, 40)(record(given=GIVEN))[2]
    assert spelled(tokenizer, text)[6:] == ["[SEP]", "cup", "is", "[SEP]", "it", "is", "[SEP]"]
    assert text.segments == [0] * 6 + [2, 2, 2] + [3, 3, 3, 3] and text.words[6:] == [None, 4, 5, None, 6, 7, None]


def test_uniter_elsewhere_has_one_type(tokenizer):
    [text] = UniterLayout(tokenizer, 40)(Record("q", "vqa", ["x.jpg"], ["why", "is"]))
    assert spelled(tokenizer, text) == ["[CLS]", "why", "is", "[SEP]"] and text.segments == [0] * 4


def test_vlbert_on_vcr(tokenizer):
    first, second = (name.lower() for name in (object_names("val-0", OBJECTS)[0], object_names("val-0", OBJECTS)[2]))
    text = VlBertLayout(tokenizer, 40)(record())[1]
    assert spelled(tokenizer, text) == ["[CLS]", "why", "is", second, "and", first, "here", "[SEP]", "cup", "fell", "[SEP]"]
    assert text.segments == [0] * 8 + [1] * 3 and text.words == [None, 0, 1, 2, 2, 2, 3, None, 4, 5, None]
    assert text.tags == [None, None, None, 2, None, 0, None, None, 1, None, None]
    text = VlBertLayout(tokenizer, 40)(record(given=GIVEN))[0]
    # Question and answer are one segment without a separator between them.
    assert spelled(tokenizer, text)[6:] == ["here", "cup", "is", "[SEP]", "no", "[SEP]"]
    assert text.segments == [0] * 10 + [1, 1] and text.words[6:] == [3, 4, 5, None, 6, None]


def test_vlbert_on_vqa_ends_in_a_mask(tokenizer):
    [text] = VlBertLayout(tokenizer, 40)(Record("q", "vqa", ["x.jpg"], ["why", "is"]))
    assert spelled(tokenizer, text) == ["[CLS]", "why", "is", "[SEP]", "[MASK]", "[SEP]"]
    assert text.segments == [0, 0, 0, 0, 1, 1] and text.words[1:3] == [0, 1]
    [text] = VlBertLayout(tokenizer, 40)(Record("q", "snli_ve", ["x.jpg"], ["it", "is"]))
    assert spelled(tokenizer, text) == ["[CLS]", "it", "is", "[SEP]"]


def test_vlberts_names_depend_on_the_record_alone():
    names = object_names("train-7", ["person"] * 14 + ["dog"])
    assert names[-1] == "dog" and len(set(names[:13])) == 13 and names[13] == names[0]  # thirteen, then from the start
    assert object_names("train-7:r", OBJECTS) == object_names("train-7", OBJECTS)
    starts = {object_names(f"train-{number}", ["person"])[0] for number in range(200)}
    assert starts == set(NAMES)


def test_shortening_keeps_every_part(tokenizer):
    for layout in (UniterLayout, VlBertLayout):
        for text in layout(tokenizer, 7)(record(given=GIVEN)):
            assert len(text.ids) <= 7 and len(text.ids) == len(text.words) == len(text.segments) == len(text.tags)
            assert text.ids[-1] == tokenizer.sep_id
