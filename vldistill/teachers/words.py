"""Which words of a text matter for an image (ADVL, section 3.2.2): S = S_v / |S_v|_1 + S_l / |S_l|_1.

S_v is the cosine between CLIP's image embedding and a word's projected local text features; CLIP reads the text without its stop
words and punctuation (Fig. 2b). S_l comes from the keyword extractor YAKE, whose scores are lower for what matters more, so that
1 / (1 + score) is taken; a word that it does not return has 0. Stop words and punctuation are never selected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import normalize

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vldistill.artifacts import fingerprint
from vldistill.data.sequences import Sentence
from vldistill.data.wording import Phrase
from vldistill.teachers.clip import Clip
from vldistill.teachers.encoders import mean_by_word

NONE = -1
_PIECE = re.compile(r"[^\W_]+")
_YAKE = {"lan": "en", "n": 1, "top": 10_000, "dedup_lim": 1.0}
"""All single words, none dropped for being like another."""


@dataclass(frozen=True)
class WordScores:
    """visual, language: [W] raw S_v and S_l of all words of a text, zero where a word has none. selected: [m] indices of the best
    words, NONE where the text has fewer."""

    visual: np.ndarray
    language: np.ndarray
    selected: np.ndarray


def words_of(sentence: Sentence) -> list[str]:
    """All words, over the parts; those of a text with their accents composed, as lists of words have them."""
    return [normalize("NFC", word) if isinstance(part, Phrase) else word for part in sentence for word in part]


@lru_cache(maxsize=1)
def _yake():
    import yake

    return yake.KeywordExtractor(**_YAKE)


def is_content(word: str) -> bool:
    """Whether a word says something: not punctuation, and not all of it stop words.

    >>> [is_content(word) for word in ("telegram", "?", "The", "person1 and person3")]
    [True, False, False, True]
    """
    own, stop = word.lower(), _yake().stopword_set
    return own not in stop and any(piece not in stop for piece in _PIECE.findall(own))


def keyword_scores(words: list[str]) -> np.ndarray:
    """[W] S_l: 1 / (1 + YAKE's score) of the best keyword in each word, 0 without one and for stop words."""
    score_of = {keyword.lower(): 1.0 / (1.0 + float(score)) for keyword, score in _yake().extract_keywords(" ".join(words))}
    scores = np.zeros(len(words), np.float32)
    for place, word in enumerate(words):
        if is_content(word):
            own = word.lower()
            scores[place] = max([score_of.get(own, 0.0), *(score_of.get(piece, 0.0) for piece in _PIECE.findall(own))])
    return scores


def importance(visual: np.ndarray, language: np.ndarray) -> np.ndarray:
    """[W] S: each score divided by its sum of absolute values (cosines may be negative), then added; a score that is zero
    everywhere adds nothing."""
    return sum((scores / total if (total := np.abs(scores).sum()) > 0 else scores) for scores in (visual, language))


def select(words: list[str], visual: np.ndarray, language: np.ndarray, most: int) -> np.ndarray:
    """[most] int16 indices of the content words of highest importance, best first, of equals the earlier; NONE fills up."""
    score = importance(visual, language)
    ranked = sorted((place for place, word in enumerate(words) if is_content(word)), key=lambda place: (-score[place], place))
    chosen = np.full(most, NONE, np.int16)
    chosen[: len(ranked[:most])] = ranked[:most]
    return chosen


def selected_vectors(features: Tensor, chosen: np.ndarray) -> Tensor:
    """[W, D] features of a text's words to [m, D] of the chosen ones, zero where there is none."""
    rows = torch.from_numpy(chosen.astype(np.int64))
    vectors = torch.zeros(len(rows), features.shape[-1])
    vectors[rows != NONE] = features[rows[rows != NONE]]
    return vectors


@dataclass
class Relevance:
    """The judge of words. clip: None leaves S_v out."""

    clip: Clip | None

    @property
    def fields(self) -> dict[str, str]:
        judge = self.clip.fields if self.clip else {"teacher": "none"}
        return {**{f"relevance {name}": value for name, value in judge.items()}, "keywords": f"yake {_settings()}"}

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Relevance:
        if self.clip:
            self.clip.to(device, dtype)
        return self

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> np.ndarray:
        """[N, E] unit vectors of CLIP's shared space; [N, 0] without CLIP."""
        if self.clip is None:
            return np.zeros((len(images), 0), np.float32)
        return torch.nn.functional.normalize(self.clip.images(images)[0].float(), dim=-1).cpu().numpy()

    @torch.inference_mode()
    def embed_words(self, texts: list[list[str]]) -> list[np.ndarray]:
        """Per text [W, E] unit vectors of its words; zero for stop words, punctuation and what the tower's context cut off."""
        if self.clip is None:
            return [np.zeros((len(words), 0), np.float32) for words in texts]
        content = [[place for place, word in enumerate(words) if is_content(word)] for words in texts]
        coded = [self.clip.tokens([words[place] for place in places]) for words, places in zip(texts, content, strict=True)]
        states, _ = self.clip.text_states([ids for ids, _ in coded])
        projected = self.clip.project_text(states).float().cpu()
        embedded = []
        for row, (words, places, (_, place)) in enumerate(zip(texts, content, coded, strict=True)):
            vectors = torch.zeros(len(words), projected.shape[-1])
            vectors[places] = mean_by_word(projected[row, : len(place)], place, len(places))
            embedded.append(torch.nn.functional.normalize(vectors, dim=-1).numpy())
        return embedded

    def score(self, words: list[str], image: np.ndarray, vectors: np.ndarray, language: np.ndarray, most: int) -> WordScores:
        """image: [E], vectors: [W, E] unit vectors; language: [W], of `keyword_scores`."""
        visual = (vectors @ image).astype(np.float32) if len(image) else np.zeros(len(words), np.float32)
        return WordScores(visual, language, select(words, visual, language, most))


@lru_cache(maxsize=1)
def _settings() -> str:
    """8 hex digits of what words are chosen by, beside the library: its settings and the list of stop words."""
    return fingerprint([_YAKE, sorted(_yake().stopword_set)])[:8]
