"""CLIP's byte pairs (Radford et al., 2021), of the vocabulary that open_clip brings: lower case, a mark at each word's end."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import lru_cache

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.processors import RobertaProcessing

from vldistill.data.wording import Phrase

START, END, MASK = "<|startoftext|>", "<|endoftext|>", "<|mask|>"
"""As transformers names them."""
WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


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
