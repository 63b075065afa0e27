"""Unimodal text teachers: any encoder of `transformers`. A sentence's feature is its first token's (RoBERTa's `<s>`, BERT's
`[CLS]`) after the last layer, a word's the mean over its sub-tokens (ADVL, section 3.1 and 3.2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.artifacts import file_digest
from vldistill.data.sequences import Sentence
from vldistill.models.loading import RANDOM, fetched, fixed_random
from vldistill.teachers.weights import folder_title, frozen, weights_digest

_LONGEST = 512


@dataclass(frozen=True)
class TextFeatures:
    """whole: [N, D] of the sentences. words: per sentence, [W, D] of its words, over all parts; one that was cut off is zero."""

    whole: Tensor
    words: list[Tensor]


@dataclass
class TransformersText:
    """model: a hub name (`FacebookAI/roberta-large`) or a folder. weights: None for the model's own, or "random" for fresh ones
    of its configuration. layer: "last", or a layer counted from 1."""

    model: str
    weights: str | None = None
    layer: str | int = "last"

    def __post_init__(self) -> None:
        self._local = Path(self.model) if Path(self.model).is_dir() else None
        self._network: nn.Module | None = None
        self._tokenizer = None

    @property
    def fields(self) -> dict[str, Any]:
        """What the features depend on."""
        digest = RANDOM if self.weights == RANDOM else weights_digest(self._local, None if self._local else self.model)
        tokenizer = self._local / "tokenizer.json" if self._local else None
        title = folder_title(self._local) if self._local else self.model
        return {"teacher": "transformers", "model": title, "weights": digest,
                "layer": self.layer, "pooling": "first token; mean of a word's tokens",
                "tokenizer": file_digest(tokenizer)[:32] if tokenizer and tokenizer.exists() else "the model's own"}

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
        if self._tokenizer is None:
            self._tokenizer = fetched(self._load_tokenizer, self.model)
        return self._tokenizer

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TransformersText:
        self.network.to(device, dtype)
        return self

    @torch.inference_mode()
    def __call__(self, sentences: list[Sentence]) -> TextFeatures:
        """Features in fp32 on the CPU. A second part follows the teacher's own separator; further ones are joined to it."""
        first = [list(sentence[0]) for sentence in sentences]
        rest = [[word for part in sentence[1:] for word in part] for sentence in sentences]
        longest = min(self.tokenizer.model_max_length, self.network.config.max_position_embeddings - 2, _LONGEST)
        # One by one: in company with a pair, a single text would get an empty second part, and with it a second separator.
        coded = [self.tokenizer(*((one, two) if two else (one,)), is_split_into_words=True, truncation="longest_first",
                                max_length=longest) for one, two in zip(first, rest, strict=True)]
        device = next(self.network.parameters()).device
        padded = self.tokenizer.pad({name: [one[name] for one in coded] for name in coded[0]}, return_tensors="pt")
        inputs = {name: value.to(device) for name, value in padded.items()}
        output = self.network(**inputs, output_hidden_states=self.layer != "last")
        states = (output.last_hidden_state if self.layer == "last" else output.hidden_states[self.layer]).float().cpu()
        words = [self._words(one, states[row], len(first[row]), len(rest[row])) for row, one in enumerate(coded)]
        return TextFeatures(states[:, 0].clone(), words)

    @staticmethod
    def _words(coded, states: Tensor, first: int, rest: int) -> Tensor:
        """[W, D]: word by word over both parts; what stands behind the text is padding."""
        offset = {0: 0, 1: first}
        place = [-1 if word is None else offset[part] + word
                 for word, part in zip(coded.word_ids(0), coded.sequence_ids(0), strict=True)]
        return mean_by_word(states[: len(place)], place, first + rest)

    def _load_tokenizer(self):
        from transformers import AutoTokenizer

        # Words come one by one, so RoBERTa has to be told that a space stands before each.
        return AutoTokenizer.from_pretrained(self.model, add_prefix_space=True, trust_remote_code=False)

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
