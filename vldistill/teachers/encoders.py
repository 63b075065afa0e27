"""Unimodal teachers of timm and transformers, and what identifies a frozen teacher's weights (see `models.base.weights`).

The feature of an image is the mean over its patches after the final norm, without a CLS token, since SwinV2 has none (ADVL,
section 3.1). A sentence's is its first token's (RoBERTa's `<s>`, BERT's `[CLS]`) after the last layer, a word's the mean over
its sub-tokens (section 3.1 and 3.2.2). Published weights are known by the hash of their file, so that features stored on one
machine are found again on another.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from PIL import Image
from torch import Tensor, nn

from vldistill.artifacts import MANIFEST, file_digest, fingerprint, known_digest
from vldistill.data.sequences import Sentence
from vldistill.data.wording import Phrase, owner
from vldistill.errors import InputError
from vldistill.finite import check_weights
from vldistill.models.base.weights import FILES, RANDOM, digest_of_weights, fetched, fixed_random, weights_file

if TYPE_CHECKING:
    from typing_extensions import Self

UNKNOWN = "?"
"""Stands for the hash of published weights that are not on this machine."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_BLOB = re.compile(r"[0-9a-f]{64}")


def weights_digest(source: Path | None, hub_name: str | None) -> str:
    """32 hex digits of sha256 of the weights' file: of `source`, a file or a folder with one; else of the library's own copy of
    the published model `hub_name`, UNKNOWN where that has not been fetched. Raises InputError where a folder has no weights."""
    if source is not None:
        # A folder of several files has no one file; a library's own layout is told by its file.
        several = source.is_dir() and not any((source / name).is_file() for name in FILES)
        digest = digest_of_weights(source, known_digest) if several else None
        return (digest or known_digest(weights_file(source)))[:32]
    for name in FILES if hub_name else ():
        try:
            copy = try_to_load_from_cache(hub_name, name)
        except HFValidationError:
            raise InputError(
                "no such folder, and no name of a published model", where=hub_name, hint="give a folder, or owner/name"
            ) from None
        if isinstance(copy, str):
            blob = Path(copy).resolve()
            # The hub names its files by this very hash.
            return (blob.name if _BLOB.fullmatch(blob.name) else known_digest(blob))[:32]
    return UNKNOWN


def tokenizer_digest(source: Path | None, hub_name: str | None) -> str:
    """32 hex digits of all files that a tokenizer is made of: of the folder `source`, else of the library's own copies of the
    published model `hub_name`, UNKNOWN where none has been fetched."""
    if source is not None:
        files = {name: source / name for name in TOKENIZER_FILES if (source / name).is_file()}
    else:
        copies = {name: try_to_load_from_cache(hub_name, name) for name in TOKENIZER_FILES}
        files = {name: Path(copy) for name, copy in copies.items() if isinstance(copy, str)}
    return fingerprint({name: file_digest(path) for name, path in files.items()})[:32] if files else UNKNOWN


def config_digest(folder: Path) -> str:
    """8 hex digits of a model folder's configuration: what tells apart models of one folder name and random weights."""
    for name in ("config.json", "open_clip_config.json"):
        if (folder / name).is_file():
            return file_digest(folder / name)[:8]
    raise InputError("holds no config.json", where=str(folder), hint="give a model's folder")


def folder_title(folder: Path) -> str:
    """What a teacher's folder is called, with a digest of its configuration; the model of a run by its recipe's name."""
    own = folder.resolve()
    run = own.name == "model" and (own.parent / MANIFEST).exists()
    return f"{own.parents[2].name if run else own.name}@{config_digest(folder)}"


def frozen(network: nn.Module, name: str) -> nn.Module:
    """In evaluation mode and without gradients, whatever happens around it. Raises InputError where a weight is not finite. name:
    of the teacher, for that."""
    check_weights(network.state_dict(), name)
    return network.eval().requires_grad_(False)


@dataclass
class LibraryTeacher(ABC):
    """A network of a library, loaded when it is first asked for. model: a published name, or a folder in the library's layout.
    weights: None for the published ones (or the folder's own), "random" for fresh ones, of timm a file too. layer: "last", or a
    block or layer counted from 1."""

    model: str
    weights: str | None = None
    layer: str | int = "last"

    def __post_init__(self) -> None:
        self._local = Path(self.model) if Path(self.model).is_dir() else None

    @cached_property
    def network(self) -> Any:
        return frozen(fetched(self._load, self.model), self.model)

    @abstractmethod
    def _load(self) -> nn.Module:
        """The library's network, as `weights` says."""

    @property
    def title(self) -> str:
        """The model's name; of a folder its last part, since hashes say the rest."""
        return folder_title(self._local) if self._local else self.model

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Self:
        self.network.to(device, dtype)
        return self


class TimmVision(LibraryTeacher):
    """model: a name of timm with its tag (`swinv2_large_window12_192.ms_in22k`), or a folder in timm's layout."""

    @property
    def fields(self) -> dict[str, Any]:
        """What the features depend on."""
        return {
            "teacher": "timm",
            "model": self.title,
            "weights": self._digest(),
            "layer": self.layer,
            "pooling": "mean of patches",
            "transform": self._preprocessing(),
        }

    @property
    def width(self) -> int:
        """D of a feature."""
        return self.network.num_features

    @cached_property
    def _transform(self):
        from timm.data import create_transform, resolve_model_data_config

        return create_transform(**resolve_model_data_config(self.network), is_training=False)

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> Tensor:
        """[N, D] of RGB images, fp32 on the CPU."""
        weight = next(self.network.parameters())
        pixels = torch.stack([self._transform(image) for image in images]).to(weight.device, weight.dtype)
        return self._tokens(pixels).float().mean(dim=1).cpu()

    def _tokens(self, pixels: Tensor) -> Tensor:
        """[N, T, D] patches, without prefix tokens."""
        if self.layer != "last":
            [states] = self.network.forward_intermediates(pixels, indices=[self.layer - 1], norm=True, intermediates_only=True)
            return states.flatten(2).transpose(1, 2)
        states = self.network.forward_features(pixels)
        if states.ndim == 4:
            # Swin keeps its channels last, convolutional networks have them first.
            states = states.flatten(1, 2) if states.shape[-1] == self.width else states.flatten(2).transpose(1, 2)
            return states
        return states[:, getattr(self.network, "num_prefix_tokens", 0) :]

    def _digest(self) -> str:
        if self.weights == RANDOM:
            return RANDOM
        if self.weights is not None or self._local:
            return weights_digest(Path(self.weights) if self.weights else self._local, None)
        import timm

        known = timm.get_pretrained_cfg(self.model)
        if known is None:
            raise InputError("is no model of timm", where=self.model, hint="give a name of timm, or a folder in its layout")
        return weights_digest(None, known.hf_hub_id)

    def _preprocessing(self) -> str:
        """The transform in words, from the model's configuration alone."""
        import timm
        from timm.data import resolve_data_config

        if self._local or self.weights == RANDOM:
            config = self.network.pretrained_cfg
        else:
            config = timm.get_pretrained_cfg(self.model).to_dict()
        data = resolve_data_config(pretrained_cfg=config)
        return f"{data['input_size']} {data['interpolation']} crop {data['crop_pct']} mean {data['mean']} std {data['std']}"

    def _load(self) -> nn.Module:
        import timm

        if self.weights == RANDOM:
            with fixed_random():
                return timm.create_model(self._name_for_timm(), pretrained=False, num_classes=0)
        overlay = {"pretrained_cfg_overlay": {"file": self.weights}} if self.weights else {}
        return timm.create_model(self._name_for_timm(), pretrained=True, num_classes=0, **overlay)

    def _name_for_timm(self) -> str:
        return f"local-dir:{self._local}" if self._local else self.model


_LONGEST = 512


@dataclass(frozen=True)
class TextFeatures:
    """whole: [N, D] of the sentences. words: per sentence, [W, D] of its words, over all parts; one that was cut off is zero."""

    whole: Tensor
    words: list[Tensor]


class TransformersText(LibraryTeacher):
    """model: a hub name (`FacebookAI/roberta-large`) or a folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tokenizers: dict[bool, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """What the features depend on."""
        digest = RANDOM if self.weights == RANDOM else weights_digest(self._local, None if self._local else self.model)
        return {
            "teacher": "transformers",
            "model": self.title,
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
