"""The tokenizer: aligned by word index, truncated before [SEP], and saved as the library reads it."""

from __future__ import annotations

import pytest
import torch
from official_meter_layout import write_vocabulary
from transformers import AutoTokenizer, BertTokenizerFast, RobertaTokenizer

from vldistill.data.sequences import join_parts, render_tag
from vldistill.data.text import load_tokenizer, read_byte_pairs, train_tokenizer
from vldistill.data.wording import split_words
from vldistill.errors import InputError

TEXTS = [
    ["the", "left", "image", "has", "more", "green", "circles", "than", "the", "right", "one", "."],
    ["is", "there", "a", "red", "square", "?"],
    ["don't", "stop", [0, 2], "0", "and", "2", "snow-man", "café"],
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 150)


def encode(tokenizer, words: list[str], length: int) -> tuple[list[int], list[int | None]]:
    coded = join_parts(tokenizer, (tuple(words),), length)
    return coded.ids, coded.words


def tokens(tokenizer, ids: list[int]) -> list[str]:
    names = {index: token for token, index in tokenizer.vocabulary.items()}
    return [names[index] for index in ids]


def spelled(tokenizer, ids, words, word: int) -> str:
    """A word put together again from its tokens."""
    return "".join(token.removeprefix("##") for token, index in zip(tokens(tokenizer, ids), words, strict=True) if index == word)


def test_specials_come_first(tokenizer):
    assert [tokenizer.vocabulary[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 2, 3, 4)
    assert len(tokenizer.vocabulary) <= 150


def test_every_token_knows_its_word(tokenizer):
    words = ["The", "circles", "don't", "Café", "snow-man", "?"]
    ids, aligned = encode(tokenizer, words, 40)
    assert ids[0] == 2 and ids[-1] == 3 and aligned[0] is None and aligned[-1] is None
    assert len(ids) == len(aligned) and None not in aligned[1:-1] and aligned[1:-1] == sorted(aligned[1:-1])
    found = [spelled(tokenizer, ids, aligned, word) for word in range(len(words))]
    assert found == ["the", "circles", "don't", "cafe", "snow-man", "?"]  # lower-cased, accents off, punctuation kept


def test_words_split_into_pieces_share_an_index(tokenizer):
    ids, aligned = encode(tokenizer, ["redder", "there"], 40)
    assert aligned.count(0) > 1 and spelled(tokenizer, ids, aligned, 0) == "redder"
    assert spelled(tokenizer, ids, aligned, 1) == "there"


def test_a_tag_is_one_word(tokenizer):
    ids, aligned = encode(tokenizer, ["is", render_tag([0, 2], ["person", "cup", "person"]), "there"], 60)
    inside = [place for place, word in enumerate(aligned) if word == 1]
    assert [tokens(tokenizer, ids)[place] for place in inside] == ["[UNK]", "and", "[UNK]"]  # no text had a person
    assert aligned == [None, 0, *[1] * len(inside), 2, None]
    assert render_tag([2], ["person", "cup", "person"]) == "person3" and render_tag([1], None) == "object2"


def test_a_word_without_tokens_keeps_the_others_indices(tokenizer):
    ids, aligned = encode(tokenizer, ["is", "", " ", "there"], 40)
    assert aligned == [None, 0, 3, None] and tokens(tokenizer, ids) == ["[CLS]", "is", "there", "[SEP]"]
    assert encode(tokenizer, [], 40) == ([2, 3], [None, None])


def test_unknown_characters_are_unknown(tokenizer):
    ids, aligned = encode(tokenizer, ["漢", "red"], 40)
    assert ids == [2, 1, tokenizer.vocabulary["red"], 3] and aligned == [None, 0, 1, None]


@pytest.mark.parametrize("length", [3, 4, 7, 12, 40])
def test_truncation_keeps_sep(tokenizer, length):
    words = TEXTS[0]
    full, aligned_full = encode(tokenizer, words, 100)
    ids, aligned = encode(tokenizer, words, length)
    kept = min(length, len(full)) - 1
    assert ids == [*full[:kept], 3] and aligned == [*aligned_full[:kept], None]
    assert len(ids) == min(length, len(full))


def test_the_same_input_gives_the_same_vocabulary():
    made = [tuple(sorted(train_tokenizer(TEXTS, 100).vocabulary.items())) for _ in range(6)]
    assert len(set(made)) == 1


def test_the_size_is_kept_and_the_input_may_be_a_generator():
    assert len(train_tokenizer(iter(TEXTS), 60).vocabulary) == 60
    assert len(train_tokenizer(TEXTS, 100).vocabulary) == 100


SENTENCES = ["The left Image has don't CAFÉ snow-man ?", "is there a red square?", "redder  circles.", ""]


@pytest.mark.parametrize("reader", [AutoTokenizer, BertTokenizerFast])
def test_the_library_reads_the_folder_and_gives_the_same_ids(tokenizer, tmp_path, reader):
    tokenizer.save(tmp_path)
    library = reader.from_pretrained(tmp_path)
    for sentence in SENTENCES:
        assert library(sentence).input_ids == encode(tokenizer, sentence.split(), 40)[0]
    assert (library.pad_token_id, library.cls_token_id, library.sep_token_id, library.mask_token_id) == (0, 2, 3, 4)
    pair = library("a red square", "is there").input_ids
    assert pair == encode(tokenizer, ["a", "red", "square"], 40)[0] + encode(tokenizer, ["is", "there"], 40)[0][1:]
    assert library.decode(encode(tokenizer, ["redder"], 40)[0], skip_special_tokens=True) == "redder"


@pytest.mark.parametrize("without", [None, "tokenizer.json", "vocab.txt"])
def test_a_saved_folder_loads_again(tokenizer, tmp_path, without):
    tokenizer.save(tmp_path)
    if without:
        (tmp_path / without).unlink()
    loaded = load_tokenizer(tmp_path)
    assert loaded.vocabulary == tokenizer.vocabulary and loaded.pad_id == tokenizer.pad_id
    for sentence in SENTENCES:
        assert encode(loaded, sentence.split(), 9) == encode(tokenizer, sentence.split(), 9)


def test_a_cased_vocabulary_keeps_its_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nRed\nred\n")
    assert encode(load_tokenizer(tmp_path), ["Red"], 9)[0] == [2, 6, 3]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert encode(load_tokenizer(tmp_path), ["Red"], 9)[0] == [2, 5, 3]


def test_truncation_and_padding_stored_in_a_file_are_off(tokenizer, tmp_path):
    """Published files carry their own limits, which would cut and pad before we do."""
    tokenizer.save(tmp_path)
    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stored.enable_truncation(4)
    stored.enable_padding(length=30)
    stored.save(str(tmp_path / "tokenizer.json"))
    assert encode(load_tokenizer(tmp_path), TEXTS[0], 40) == encode(tokenizer, TEXTS[0], 40)


def test_broken_folders(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json and no vocab\.txt") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(InputError, match=r"lacks \[PAD\], \[MASK\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="is not a tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where.endswith("tokenizer.json")


@pytest.mark.parametrize(
    "files",
    [
        {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", "tokenizer_config.json": "{"},
        {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[MASK]\n"},
        {"vocab.txt": "[PAD]\n\udcff\n"},
    ],
    ids=["config", "no SEP", "not UTF-8"],
)
def test_broken_vocabulary_folders(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError):
        load_tokenizer(tmp_path)


def test_encoding_draws_nothing(tokenizer):
    before = torch.get_rng_state()
    encode(tokenizer, TEXTS[0], 40)
    assert torch.equal(before, torch.get_rng_state())


# RoBERTa's byte pairs.


@pytest.fixture
def byte_pairs(tmp_path):
    write_vocabulary(tmp_path / "roberta")
    return tmp_path / "roberta"


@pytest.mark.parametrize("text", ["two dogs run", "a dog's dog?", "the dog. dogs dog?", "dog"])
def test_byte_pairs_are_those_of_the_running_text(byte_pairs, text, tmp_path):
    """As the library codes the text before it was split into words: no space before the first word, nor before "?" and "."."""
    own = read_byte_pairs(byte_pairs)
    library = RobertaTokenizer(str(byte_pairs / "vocab.json"), str(byte_pairs / "merges.txt"))
    words = split_words(text)
    ids, aligned = encode(own, words, 40)
    assert ids == library(text)["input_ids"]
    found = [spelled(own, ids, aligned, word).replace("Ġ", "") for word in range(len(words))]
    assert found == words and aligned[0] is None and aligned[-1] is None
    (tmp_path / "out").mkdir()
    own.save(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == ids
    assert encode(load_tokenizer(tmp_path / "out"), words, 40) == (ids, aligned)


def test_byte_pairs_have_robertas_specials(byte_pairs):
    own = read_byte_pairs(byte_pairs)
    assert (own.cls_id, own.pad_id, own.sep_id) == (0, 1, 2) and own.mask_id == len(own.vocabulary) - 1
    assert own.pieces([]) == ([], [])
    (byte_pairs / "vocab.json").write_text('{"a": 0, "<unk>": 1}')
    (byte_pairs / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(InputError, match="lacks <pad>, <s>, </s>, <mask>"):
        read_byte_pairs(byte_pairs)
    (byte_pairs / "vocab.json").write_text("{")
    with pytest.raises(InputError, match="is no byte-pair vocabulary"):
        read_byte_pairs(byte_pairs)
