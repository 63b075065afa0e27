"""CLIP's and SLIP's two towers as unimodal teachers (CLIP-V, CLIP-T, SLIP-V, SLIP-T) and as the judge of a word's relevance.

As teachers they give features after their final norm, before the projection to the space they share; as judge, after it.
Every token knows its word, and the end token stays, however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from vldistill.data.sequences import Sentence
from vldistill.data.text import clip_tokenizer
from vldistill.errors import InputError
from vldistill.models.base import slip
from vldistill.models.base.clip import load_open_clip, published
from vldistill.models.base.weights import RANDOM, fetched, fixed_random
from vldistill.teachers.encoders import (
    TextFeatures,
    TimmVision,
    TransformersText,
    folder_title,
    frozen,
    mean_by_word,
    weights_digest,
)

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class Clip:
    """kind: "open_clip" or "slip". model: a name of open_clip (`ViT-B-32-quickgelu`), or a folder: in open_clip's layout, or
    what `vldistill convert slip` wrote. weights: open_clip's tag (`openai`) or a file; None for a folder's own; "random"."""

    kind: str
    model: str
    weights: str | None = None

    def __post_init__(self) -> None:
        self._local = Path(self.model) if Path(self.model).is_dir() else None
        if self.kind == "slip" and self._local is None:
            raise InputError("no such folder", where=self.model, hint="make it with: vldistill convert slip FILE OUT")

    @property
    def fields(self) -> dict[str, Any]:
        """What any of its features depend on."""
        title = folder_title(self._local) if self._local else self.model
        return {"teacher": self.kind, "model": title, "weights": self._digest()}

    @cached_property
    def network(self) -> Any:
        """open_clip's CLIP, or a `SlipModel`."""
        return frozen(self._loaded[0], self.model)

    @cached_property
    def transform(self):
        """From a PIL image to its pixels."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[nn.Module, Any]:
        load = {"slip": self._load_slip, "open_clip": self._load_open_clip}[self.kind]
        return fetched(load, self.model)

    @property
    def text(self) -> Any:
        """What holds the text tower's parts."""
        return getattr(self.network, "text", self.network)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Clip:
        self.network.to(device, dtype)
        return self

    def images(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Embeddings [N, E] in the shared space, and patches [N, T, D] after the final norm, without CLS."""
        weight = next(self.network.parameters())
        pixels = torch.stack([self.transform(image) for image in images]).to(weight.device, weight.dtype)
        return self.network.visual(pixels) if self.kind == "open_clip" else slip.image_states(self.network, pixels)

    def tokens(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Token ids with start and end, at most the tower's context; and the word of each, -1 at start and end."""
        tokenizer, most = clip_tokenizer(), len(self.text.positional_embedding) - 2
        ids, word_of = tokenizer.pieces(words)
        place = [-1 if word is None else word for word in word_of[:most]]
        return [tokenizer.cls_id, *ids[:most], tokenizer.sep_id], [-1, *place, -1]

    def text_states(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """[N, T, D] states after the final norm, and [N] the place of each end token."""
        tower, device = self.text, next(self.network.parameters()).device
        last = torch.tensor([len(ids) - 1 for ids in rows], device=device)
        padded = torch.zeros(len(rows), int(last.max()) + 1, dtype=torch.long, device=device)
        for row, ids in enumerate(rows):
            padded[row, : len(ids)] = torch.tensor(ids)
        length = padded.shape[1]
        states = tower.token_embedding(padded) + tower.positional_embedding[:length]
        mask = tower.attn_mask[:length, :length].to(states.device, states.dtype)
        return tower.ln_final(tower.transformer(states, attn_mask=mask)), last

    def project_text(self, states: Tensor) -> Tensor:
        """[..., D] to [..., E], the shared space."""
        projection = self.text.text_projection
        return projection(states) if isinstance(projection, nn.Linear) else states @ projection

    def _digest(self) -> str:
        if self.weights == RANDOM:
            return RANDOM
        if self._local or (self.weights and Path(self.weights).is_file()):
            return weights_digest(Path(self.weights) if self.weights else self._local, None)
        known = published(self.model, self.weights)
        return weights_digest(None, (known.get("hf_hub") or "").rstrip("/") or None)

    def _load_slip(self) -> tuple[nn.Module, Any]:
        with fixed_random():
            return slip.load(self._local, random=self.weights == RANDOM)

    def _load_open_clip(self) -> tuple[nn.Module, Any]:
        with fixed_random():
            network, transform = load_open_clip(str(self._local or self.model), self.weights)
        tower = getattr(network, "text", network)
        if not hasattr(network.visual, "output_tokens") or not hasattr(tower, "attn_mask"):
            raise InputError("has no pair of CLIP's own Transformers", where=self.model, hint="choose a ViT model of open_clip")
        network.visual.output_tokens = True
        return network, transform


@dataclass
class ClipTower:
    """One of the two as a teacher."""

    clip: Clip

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Self:
        self.clip.to(device, dtype)
        return self


class ClipVision(ClipTower):
    """CLIP-V or SLIP-V: the mean over patches."""

    @property
    def fields(self) -> dict[str, Any]:
        return {**self.clip.fields, "layer": "last", "pooling": "mean of patches", "transform": "the model's own"}

    @property
    def width(self) -> int:
        visual = self.clip.network.visual
        return visual.ln_post.normalized_shape[0] if self.clip.kind == "open_clip" else visual.num_features

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> Tensor:
        """[N, D], fp32 on the CPU."""
        return self.clip.images(images)[1].float().mean(dim=1).cpu()


class ClipText(ClipTower):
    """CLIP-T or SLIP-T: the end token, and the mean over a word's tokens. Parts are read one after the other."""

    @property
    def fields(self) -> dict[str, Any]:
        return {**self.clip.fields, "layer": "last", "pooling": "end token; mean of a word's tokens", "tokenizer": "CLIP's"}

    @property
    def width(self) -> int:
        return self.clip.text.ln_final.normalized_shape[0]

    @torch.inference_mode()
    def __call__(self, sentences: list[Sentence]) -> TextFeatures:
        """Features in fp32 on the CPU."""
        words = [sentence[0] if len(sentence) == 1 else [word for part in sentence for word in part] for sentence in sentences]
        coded = [self.clip.tokens(row) for row in words]
        states, last = self.clip.text_states([ids for ids, _ in coded])
        whole = states[torch.arange(len(states), device=states.device), last].float().cpu()
        states = states.float().cpu()
        return TextFeatures(
            whole, [mean_by_word(states[row, : len(place)], place, len(words[row])) for row, (_, place) in enumerate(coded)]
        )


VisionTeacher = TimmVision | ClipVision
TextTeacher = TransformersText | ClipText
"""Teachers of one modality: a library's encoder, or a tower of CLIP or SLIP."""
