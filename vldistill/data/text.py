"""Tokenization of texts and word lists, aligned by word index: WordPiece, or the byte pairs of RoBERTa or CLIP.

A text is read as the published tokenizer reads it, and each token is given the word that it covers. Of a list of words, which is
all that VCR and artifacts of earlier versions have, words are coded one by one.

The published models bring BERT's or RoBERTa's vocabulary; CLIP's (Radford et al., 2021) comes with open_clip; without the
network a small WordPiece one is trained on the prepared text. Folders are saved as `transformers` reads them (tokenizer.json,
tokenizer_config.json, and BERT's vocab.txt).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from vldistill.artifacts import write_json, write_text
from vldistill.data.records import Word, read_json, read_text
from vldistill.data.wording import Phrase, owner
from vldistill.errors import InputError, read_through

START, END, MASK = "<|startoftext|>", "<|endoftext|>", "<|mask|>"
"""As transformers names them."""
WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROLES = ("pad", "unk", "cls", "sep", "mask")
_BERT = dict(zip(_ROLES, SPECIALS, strict=True))
_ROBERTA = dict(zip(_ROLES, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True))
# Padded as transformers does it. The text tower is causal and is read at its last end token, so nothing behind that counts.
_CLIP = dict(zip(_ROLES, (END, END, START, END, MASK), strict=True))
KINDS = {"wordpiece": _BERT, "roberta": _ROBERTA, "clip": _CLIP}
"""The tokenizers there are, with the names of their special tokens. DeCLIP's is CLIP's with one token more."""
_UNSPACED = tuple(".,;:?!)%")
"""Words of a list that follow the one before without a space, as they did before the text was split."""


def clip_byte_pairs(*, mask: bool = False) -> Tokenizer:
    """The tokenizer of a text that is cleaned already (see `cleaned`). mask: DeCLIP's vocabulary, which has a token for hidden
    words before the two of start and end, whose ids are greater by one for it."""
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()
    specials = [MASK, START, END] if mask else [START, END]
    tokens = [*list(source.encoder)[:-2], *specials]  # open_clip's own start and end have other names
    pairs = BPE(
        {token: index for index, token in enumerate(tokens)},
        list(source.bpe_ranks),
        unk_token=END,
        continuing_subword_prefix="",
        end_of_word_suffix=WORD_END,
        fuse_unk=False,
    )
    tokenizer = Tokenizer(pairs)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    # The second one only turns bytes into letters.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(specials)
    first, last = ((name, tokenizer.token_to_id(name)) for name in (START, END))
    tokenizer.post_processor = RobertaProcessing(last, first, False, False)
    return tokenizer


@lru_cache(maxsize=1 << 16)
def cleaned(word: str) -> str:
    """A word as CLIP reads it: broken encodings and HTML entities mended, in lower case. transformers' tokenizer leaves the
    mending out."""
    from open_clip.tokenizer import get_clean_fn

    return get_clean_fn("lower")(word)


def cleaned_text(phrase: Phrase) -> tuple[str, list[int | None]]:
    """The text of a phrase as CLIP reads it, and the word of each of its characters. What the mending changed is laid beside what
    stood there: "&amp;" is the word of "&"."""
    text = cleaned(phrase.text)
    # Spaces are collapsed, so only what is between them is compared.
    given = [
        (own, word)
        for letter, word in zip(phrase.text, phrase.owners(), strict=True)
        for own in letter.lower()
        if not own.isspace()
    ]
    kept = [place for place, letter in enumerate(text) if not letter.isspace()]
    before, after = "".join(letter for letter, _ in given), "".join(text[place] for place in kept)
    owners: list[int | None] = [None] * len(text)
    if before == after:
        for place, (_, word) in zip(kept, given, strict=True):
            owners[place] = word
        return text, owners
    for _, start, stop, first, last in SequenceMatcher(None, before, after, False).get_opcodes():
        for number, place in enumerate(kept[first:last]):
            # Of equal length one by one, else in proportion; what was added belongs to what is before it.
            source = start + number * (stop - start) // (last - first) if stop > start else max(start - 1, 0)
            owners[place] = given[source][1] if given else None
    return text, owners


class WordTokenizer:
    """Turns words into token ids, remembering which word each token came from. mask_id: None where the vocabulary has no token
    for hidden words, as CLIP's has none."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.kind = _kind(tokenizer)
        self._names = dict(KINDS[self.kind])
        if self.kind == "clip" and tokenizer.token_to_id(MASK) is None:
            del self._names["mask"]
        self.pad_id, self.cls_id, self.sep_id = (self._special(self._names[role]) for role in ("pad", "cls", "sep"))
        self.mask_id: int | None = self._special(self._names["mask"]) if "mask" in self._names else None

    def _special(self, name: str) -> int:
        index = self._tokenizer.token_to_id(name)
        if index is None:
            raise InputError(
                f"the tokenizer has no {name} token", hint="BERT's WordPiece or the byte pairs of RoBERTa or CLIP are expected"
            )
        return index

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token to id."""
        return self._tokenizer.get_vocab()

    def pieces(self, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
        """Token ids without specials, and each token's word index; None of a token that holds nothing but spaces (RoBERTa's)."""
        if isinstance(words, Phrase):
            return self._written(words)
        if self.kind == "roberta":
            return self._pairs(words)
        # CLIP's pairs know a word by its end and ignore spaces, so words can be coded one by one.
        given = [cleaned(word) for word in words] if self.kind == "clip" else list(words)
        coded = self._tokenizer.encode(given, is_pretokenized=True, add_special_tokens=False)
        return coded.ids, coded.word_ids

    def _written(self, phrase: Phrase) -> tuple[list[int], list[int | None]]:
        """The text as it is."""
        text, owners = cleaned_text(phrase) if self.kind == "clip" else (phrase.text, phrase.owners())
        coded = self._tokenizer.encode(text, add_special_tokens=False)
        return coded.ids, [owner(owners[start:end]) for start, end in coded.offsets]

    def _pairs(self, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
        """RoBERTa's byte pairs know a word's beginning by the space before it, so they are given running text."""
        text, place = "", []
        for index, word in enumerate(words):
            spaced = word if not index or word.startswith(_UNSPACED) else f" {word}"
            text += spaced
            place += [index] * len(spaced)
        coded = self._tokenizer.encode(text, add_special_tokens=False)
        return coded.ids, [place[end - 1] for _, end in coded.offsets]

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and, of WordPiece, vocab.txt."""
        write_text(folder / "tokenizer.json", self._tokenizer.to_str(pretty=False))
        names = {f"{role}_token": name for role, name in self._names.items()}
        if self.kind != "wordpiece":
            ends = {"bos_token": names["cls_token"], "eos_token": names["sep_token"]}
            library = "RobertaTokenizer"
            if self.kind == "clip":
                library = "CLIPTokenizer"
                del names["cls_token"], names["sep_token"]
            write_json(folder / "tokenizer_config.json", {"tokenizer_class": library, **names, **ends})
            return
        ordered = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        write_text(folder / "vocab.txt", "\n".join(ordered) + "\n")
        lowercase = bool(getattr(self._tokenizer.normalizer, "lowercase", True))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, **names})


def _kind(tokenizer: Tokenizer) -> str:
    """Which of KINDS it is."""
    if not isinstance(tokenizer.model, BPE):
        return "wordpiece"
    return "clip" if tokenizer.model.end_of_word_suffix == WORD_END else "roberta"


@lru_cache
def clip_tokenizer(*, mask: bool = False) -> WordTokenizer:
    """CLIP's, or with a token for hidden words DeCLIP's."""
    return WordTokenizer(clip_byte_pairs(mask=mask))


def train_tokenizer(texts: Iterable[Sequence[Word]], size: int) -> WordTokenizer:
    """A lower-casing WordPiece vocabulary of at most `size` tokens, trained on texts or word lists; the same input gives the
    same vocabulary."""
    tokenizer = _untrained()
    lines = [
        words.text if isinstance(words, Phrase) else " ".join(word for word in words if isinstance(word, str)) for words in texts
    ]
    normal = [tokenizer.normalizer.normalize_str(line) for line in lines]
    pieces = {piece for line in normal for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(line)}
    # The trainer numbers letters inside words in the order of a hash table; named beforehand, their order is fixed.
    letters = sorted({f"##{letter}" for piece in pieces for letter in piece[1:]})
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=[*SPECIALS, *letters], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    # Rebuilt, so that only the specials count as such.
    trained = _untrained(tokenizer.get_vocab())
    trained.add_special_tokens(list(SPECIALS))
    trained.post_processor = _template(trained)
    return WordTokenizer(trained)


def load_tokenizer(folder: Path) -> WordTokenizer:
    """Reads a model folder's tokenizer.json, or its vocab.txt."""
    file, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    if file.exists():
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"is not a tokenizer: {error}", where=str(file)) from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return WordTokenizer(tokenizer)
    if vocabulary.exists():
        return read_vocabulary(vocabulary, lowercase=_lowercases(folder / "tokenizer_config.json"))
    raise InputError("no tokenizer.json and no vocab.txt", where=str(folder), hint="give a folder saved with its tokenizer")


def _lowercases(config: Path) -> bool:
    """What a published tokenizer_config.json says, if there is one."""
    if not config.exists():
        return True
    settings = read_json(config)
    if not isinstance(settings, dict):
        raise InputError("is not a tokenizer's configuration", where=str(config), hint="fetch it again")
    return bool(settings.get("do_lower_case", True))


def read_vocabulary(vocabulary: Path, *, lowercase: bool) -> WordTokenizer:
    """A published BERT's vocab.txt. Raises InputError where it lacks a special token."""
    tokens = read_text(vocabulary).splitlines()
    missing = [name for name in SPECIALS if name not in tokens]
    if missing:
        raise InputError(f"lacks {', '.join(missing)}", where=str(vocabulary), hint="a BERT vocabulary is expected")
    tokenizer = _untrained({token: index for index, token in enumerate(tokens)})
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = _template(tokenizer)
    return WordTokenizer(tokenizer)


def read_byte_pairs(folder: Path) -> WordTokenizer:
    """A published RoBERTa's vocab.json and merges.txt. Raises InputError where they are missing, broken or another model's."""
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for file in (vocabulary, merges):
        if not file.is_file():
            raise InputError("no such file", where=str(file), hint="give the folder of a RoBERTa, with vocab.json and merges.txt")
        read_through(file)
    try:
        tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges), unk_token=_ROBERTA["unk"]))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"is no byte-pair vocabulary: {error}", where=str(folder), hint="fetch RoBERTa's files again") from None
    missing = [name for name in _ROBERTA.values() if tokenizer.token_to_id(name) is None]
    if missing:
        raise InputError(f"lacks {', '.join(missing)}", where=str(vocabulary), hint="RoBERTa's vocabulary is expected")
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.add_special_tokens(list(_ROBERTA.values()))
    first, last = ((name, tokenizer.token_to_id(name)) for name in (_ROBERTA["cls"], _ROBERTA["sep"]))
    tokenizer.post_processor = RobertaProcessing(last, first, True, False)
    return WordTokenizer(tokenizer)


def _untrained(vocabulary: dict[str, int] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary or {}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder(prefix="##")
    return tokenizer


def _template(tokenizer: Tokenizer) -> TemplateProcessing:
    specials = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    return TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=specials)
