"""Token ids of texts are those of the published tokenizers, for every kind of tokenizer there is, and tokens know their words."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from open_clip.tokenizer import SimpleTokenizer
from scripts_of_the_world import WORDS, sentences
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, BertTokenizerFast, RobertaTokenizer

from vldistill.data.records import Record
from vldistill.data.sequences import sentences as read_by_teachers
from vldistill.data.text import (
    KINDS,
    SPECIALS,
    WordTokenizer,
    clip_tokenizer,
    load_tokenizer,
    read_byte_pairs,
    read_vocabulary,
    train_tokenizer,
)
from vldistill.data.wording import Phrase, reworded, split_words
from vldistill.models.base.family import family_of
from vldistill.models.families import FAMILIES
from vldistill.teachers.cache import text_key
from vldistill.teachers.encoders import TransformersText

EACH = {"ordinary": 100, "many": 700}
"""Of 15 scripts: 1,500 and 10,500 sentences."""
REAL = Path(os.environ.get("VLDISTILL_TEST_DATA", "not-given"))


def phrase(text: str) -> Phrase:
    return Phrase(split_words(text), text)


@dataclass(frozen=True)
class Published:
    """ids: of many texts, without special tokens, by the published tokenizer."""

    own: WordTokenizer
    ids: Callable[[list[str]], list[list[int]]]


def of_library(folder: Path, library=AutoTokenizer) -> Callable[[list[str]], list[list[int]]]:
    """transformers' own reading of a folder."""
    reader = library.from_pretrained(folder)
    return lambda texts: reader(texts, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module", params=["ordinary", pytest.param("many", marks=pytest.mark.slow)])
def texts(request) -> list[str]:
    return sentences(EACH[request.param])


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Published]:
    """Each way in which a tokenizer comes into being: BERT's files cased and not, one trained on the data, RoBERTa's files,
    CLIP's and DeCLIP's of open_clip. Vocabularies are learned from other sentences than those compared."""
    folder, other = tmp_path_factory.mktemp("tokenizers"), sentences(60, seed=1)
    trained = train_tokenizer(map(phrase, other), 1500)
    for name in ("trained", "cased", "pairs", "clip", "declip", "roberta"):
        (folder / name).mkdir()
    trained.save(folder / "trained")
    cased, pairs = folder / "cased", folder / "pairs"
    letters = sorted({letter for text in other for letter in text if not letter.isspace()})
    pieces = [*letters, *(f"##{letter}" for letter in letters), *sorted({word for text in other for word in text.split()})]
    (cased / "vocab.txt").write_text("\n".join([*SPECIALS, *dict.fromkeys(pieces)]) + "\n", encoding="utf-8")
    (cased / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(other, vocab_size=1200, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False)
    learned.save_model(str(pairs))
    known = json.loads((pairs / "vocab.json").read_text())
    (pairs / "vocab.json").write_text(json.dumps({**known, "<mask>": len(known)}))
    roberta = RobertaTokenizer(str(pairs / "vocab.json"), str(pairs / "merges.txt"))
    simple = SimpleTokenizer()
    for name in ("clip", "declip", "roberta"):
        (read_byte_pairs(pairs) if name == "roberta" else clip_tokenizer(mask=name == "declip")).save(folder / name)
    return {
        "wordpiece": Published(load_tokenizer(folder / "trained"), of_library(folder / "trained", BertTokenizerFast)),
        "wordpiece, uncased vocab.txt": Published(
            read_vocabulary(folder / "trained/vocab.txt", lowercase=True), of_library(folder / "trained")
        ),
        "wordpiece, cased vocab.txt": Published(load_tokenizer(cased), of_library(cased, BertTokenizerFast)),
        "roberta": Published(read_byte_pairs(pairs), lambda texts: roberta(texts, add_special_tokens=False)["input_ids"]),
        "roberta, saved": Published(load_tokenizer(folder / "roberta"), of_library(folder / "roberta")),
        "clip": Published(clip_tokenizer(), lambda texts: [simple.encode(text) for text in texts]),
        "clip, saved": Published(load_tokenizer(folder / "clip"), lambda texts: [simple.encode(text) for text in texts]),
        # DeCLIP's token more stands behind all pairs.
        "clip, declip": Published(load_tokenizer(folder / "declip"), lambda texts: [simple.encode(text) for text in texts]),
    }


NAMES = [
    "wordpiece",
    "wordpiece, uncased vocab.txt",
    "wordpiece, cased vocab.txt",
    "roberta",
    "roberta, saved",
    "clip",
    "clip, saved",
    "clip, declip",
]


def test_every_kind_is_compared(published):
    assert list(published) == NAMES and {one.own.kind for one in published.values()} == set(KINDS)
    assert len(WORDS) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_published_tokenizer_and_each_token_has_the_word_it_covers(published, texts, name):
    one = published[name]
    expected, differing = one.ids(texts), []
    for text, ids in zip(texts, expected, strict=True):
        own, words = one.own.pieces(phrase(text))
        if own != ids:
            differing.append(text)
        known = [word for word in words if word is not None]
        assert len(words) == len(own) and known == sorted(known)
        assert None not in words or one.own.kind == "roberta"
    assert not differing, f"{len(differing)} of {len(texts)}, first {differing[0]!r}"
    assert len(texts) >= 1_500


@pytest.mark.parametrize("name", NAMES)
def test_a_token_covers_its_word_and_no_word_of_letters_is_without_token(published, name):
    own = published[name].own
    names = {index: token for token, index in own.vocabulary.items()}
    for text in ["A man,  reading résumé's “3:45” &amp; that", "Is the price $5.99?", "run !!! dog", "a\u00a0man... walking"]:
        words, (ids, found) = split_words(text), own.pieces(phrase(text))
        for place, word in enumerate(words):
            tokens = [names[token] for token, index in zip(ids, found, strict=True) if index == place]
            spelled = "".join(tokens).replace("##", "").replace("</w>", "").replace("Ġ", "")
            if word.isascii() and word.isalpha() and "[UNK]" not in tokens and word != "amp":
                assert spelled.lower() == word.lower(), (text, word, tokens)


@pytest.mark.skipif(not REAL.is_dir(), reason="VLDISTILL_TEST_DATA names no folder of real data")
def test_sentences_of_people(published):
    lines = (REAL / "nlvr2-annotations/dev.json").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["sentence"] for line in lines]
    assert len(texts) >= 800
    for one in published.values():
        assert [one.own.pieces(phrase(text))[0] for text in texts] == one.ids(texts)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_student_reads_the_text_itself(published, kind):
    """Ids between [CLS] and [SEP] of every student's layout are the published tokenizer's of the text."""
    text = "What time is it,  3:45 or “12:30”? €5 e\u0301"
    record = Record("1", "classification", ["a.jpg"], split_words(text), written=text)
    for one in published.values():
        coded = family_of(kind).text_layout(one.own, 200)(record)[0]
        expected = one.ids([text])[0]
        assert coded.ids == [one.own.cls_id, *expected, one.own.sep_id]
        assert coded.words == [None, *one.own.pieces(phrase(text))[1], None]


@pytest.mark.parametrize("library", ["wordpiece", "roberta"])
def test_a_text_teacher_reads_the_text_itself(published, texts, tmp_path, library):
    """Not as words with a space before each: RoBERTa's first word has none."""
    published[library].own.save(tmp_path)
    teacher, reader = TransformersText(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    teacher.network = type("N", (), {"config": type("C", (), {"max_position_embeddings": 514})})()
    for text in texts[::50]:
        record = Record("1", "caption", ["a.jpg"], split_words(text), written=text)
        coded, place = teacher._read(read_by_teachers(record)[0])
        assert coded["input_ids"] == reader(text, truncation=True, max_length=512)["input_ids"]
        own = [-1 if word is None else word for word in published[library].own.pieces(phrase(text))[1]]
        assert place[1:-1] == own[: len(place) - 2] and (place[0], place[-1]) == (-1, -1)


def test_features_of_word_lists_are_found_again_and_texts_have_keys_of_their_own():
    """A cache of an earlier version knows a text by its words."""
    words = ("two", "dogs")
    assert text_key((words, ("run",))) == hashlib.sha1(b"two\x1fdogs\x1erun").digest()
    keys = {text_key((one,)) for one in (words, phrase("two dogs"), phrase("two  dogs"), phrase("two dogs "))}
    assert len(keys) == 4


@pytest.mark.parametrize(
    "text, words",
    [
        ("क्या वर्ग लाल है", ["क्या", "वर्ग", "लाल", "है"]),
        ("re\u0301sume\u0301 here", ["re\u0301sume\u0301", "here"]),
        ("ภาษาไทย สวัสดี", ["ภาษาไทย", "สวัสดี"]),
        ("می‌خواهم co\u00adoperate", ["می‌خواهم", "co\u00adoperate"]),
        ("👩‍💻 ❤️ ok", ["👩‍💻", "❤️", "ok"]),
        ("Is the man's bike-shed red?", ["Is", "the", "man's", "bike-shed", "red", "?"]),
    ],
)
def test_words_keep_what_belongs_to_them(text, words):
    assert split_words(text) == words


def test_words_and_the_spaces_between_them_are_the_text(texts):
    for text in texts:
        own = phrase(text)
        left = list(text)
        for start, end in own.spans():
            left[start:end] = " " * (end - start)
        assert not "".join(left).strip()


@pytest.mark.parametrize(
    "text, words, expected",
    [
        ("What is  the man doing?", "What is the action of the man ?", "What is  the action of the man?"),
        ("A man's dog,a man", "A male's dog , a male", "A male's dog,a male"),
        ("doing what?", "what ?", "what?"),
        ("doing", "", ""),
        ("what now", "what", "what"),
        ("so?", "well so ?", "well so?"),
        ("so?", "so is it ?", "so is it?"),
    ],
)
def test_a_reworded_text_keeps_its_spaces(text, words, expected):
    assert reworded(phrase(text), words.split()) == expected
