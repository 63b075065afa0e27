"""Unimodal text teachers: any encoder of `transformers`. A sentence's feature is its first token's (RoBERTa's `<s>`, BERT's
`[CLS]`) after the last layer, a word's the mean over its sub-tokens (ADVL, section 3.1 and 3.2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.sequences import Phrase, Sentence, owner
from vldistill.models.base.weights import RANDOM, fetched, fixed_random
from vldistill.teachers.weights import folder_title, frozen, tokenizer_digest, weights_digest

_LONGEST = 512


@dataclass(frozen=True)
class TextFeatures:
    """whole: [N, D] of the sentences. words: per sentence, [W, D] of its words, over all parts; one that was cut off is zero."""

    whole: Tensor
    words: list[Tensor]


@dataclass
class TransformersText:
    """towers: a hub name (`FacebookAI/roberta-large`) or a folder. weights: None for the model's own, or "random" for fresh ones
    of its configuration. layer: "last", or a layer counted from 1."""

    model: str
    weights: str | None = None
    layer: str | int = "last"

    def __post_init__(self) -> None:
        self._local = Path(self.model) if Path(self.model).is_dir() else None
        self._network: nn.Module | None = None
        self._tokenizers: dict[bool, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """What the features depend on."""
        digest = RANDOM if self.weights == RANDOM else weights_digest(self._local, None if self._local else self.model)
        title = folder_title(self._local) if self._local else self.model
        return {
            "teacher": "transformers",
            "model": title,
            "weights": digest,
            "layer": self.layer,
            "pooling": "first token; mean of a word's tokens",
            "tokenizer": tokenizer_digest(self._local, None if self._local else self.model),
        }

    @property
    def width(self) -> int:
        """D of a feature."""
        return self.network.config.hidden_size

    @property
    def network(self) -> nn.Module:
        if self._network is None:
            self._network = frozen(fetched(self._load, self.model), self.model)
        return self._network

    @property
    def tokenizer(self):
        """As published, for running text."""
        return self._reader(words=False)

    def _reader(self, *, words: bool):
        """The tokenizer of texts, or of words that come one by one, so that RoBERTa has to be told that a space stands before
        each."""
        if words not in self._tokenizers:
            from transformers import AutoTokenizer

            spaced = {"add_prefix_space": True} if words else {}
            self._tokenizers[words] = fetched(
                lambda: AutoTokenizer.from_pretrained(self.model, trust_remote_code=False, **spaced), self.model
            )
        return self._tokenizers[words]

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TransformersText:
        self.network.to(device, dtype)
        return self

    @torch.inference_mode()
    def __call__(self, sentences: list[Sentence]) -> TextFeatures:
        """Features in fp32 on the CPU. A second part follows the teacher's own separator; further ones are joined to it."""
        # One by one: in company with a pair, a single text would get an empty second part, and with it a second separator.
        read = [self._read(sentence) for sentence in sentences]
        coded = [inputs for inputs, _ in read]
        device = next(self.network.parameters()).device
        padded = self.tokenizer.pad({name: [one[name] for one in coded] for name in coded[0]}, return_tensors="pt")
        inputs = {name: value.to(device) for name, value in padded.items()}
        output = self.network(**inputs, output_hidden_states=self.layer != "last")
        states = (output.last_hidden_state if self.layer == "last" else output.hidden_states[self.layer]).float().cpu()
        # Word by word over both parts; what stands behind the text is padding.
        words = [
            mean_by_word(states[row, : len(place)], place, sum(map(len, sentence)))
            for row, (sentence, (_, place)) in enumerate(zip(sentences, read, strict=True))
        ]
        return TextFeatures(states[:, 0].clone(), words)

    def _read(self, sentence: Sentence) -> tuple[Any, list[int]]:
        """The network's inputs, and the word of each token over all parts, -1 where it has none."""
        longest = min(self.tokenizer.model_max_length, self.network.config.max_position_embeddings - 2, _LONGEST)
        cut = {"truncation": "longest_first", "max_length": longest}
        if len(sentence) == 1 and isinstance(sentence[0], Phrase):
            coded, owners = self.tokenizer(sentence[0].text, **cut), sentence[0].owners()
            word_of = [
                None if part is None else owner(owners[start:end])
                for (start, end), part in zip(coded.encodings[0].offsets, coded.sequence_ids(0), strict=True)
            ]
            return coded, [-1 if word is None else word for word in word_of]
        first, rest = list(sentence[0]), [word for part in sentence[1:] for word in part]
        coded = self._reader(words=True)(*((first, rest) if rest else (first,)), is_split_into_words=True, **cut)
        offset = {0: 0, 1: len(first)}
        return coded, [
            -1 if word is None else offset[part] + word
            for word, part in zip(coded.word_ids(0), coded.sequence_ids(0), strict=True)
        ]

    def _load(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        if self.weights != RANDOM:
            return AutoModel.from_pretrained(self.model, trust_remote_code=False)
        config = AutoConfig.from_pretrained(self.model, trust_remote_code=False)
        with fixed_random():
            return AutoModel.from_config(config, trust_remote_code=False)


def mean_by_word(states: Tensor, place: list[int], count: int) -> Tensor:
    """[T, D] token states and each token's word (-1: none) to [count, D]; a word without tokens is zero."""
    index = torch.tensor(place)
    kept = index >= 0
    sums = torch.zeros(count, states.shape[-1]).index_add_(0, index[kept], states[kept])
    return sums / torch.bincount(index[kept], minlength=count).clamp(min=1)[:, None]
