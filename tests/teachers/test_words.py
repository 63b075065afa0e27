"""Word selection: importance by hand, what counts as a word that says something, and the scores' two sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yake

from vldistill.teachers.clip import Clip
from vldistill.teachers.words import NONE, Relevance, importance, is_content, keyword_scores, select

TEXT = ["Why", "is", "person4", "sending", "a", "telegram", "to", "the", "man", "in", "the", "red", "coat", "?"]


def test_importance_adds_each_score_over_its_own_sum():
    visual, language = np.array([0.2, -0.1, 0.1, 0.0], np.float32), np.array([0.0, 0.5, 0.5, 0.0], np.float32)
    assert importance(visual, language).tolist() == pytest.approx([0.5, -0.25 + 0.5, 0.25 + 0.5, 0.0])
    assert importance(np.zeros(4, np.float32), language).tolist() == pytest.approx([0, 0.5, 0.5, 0])
    assert importance(visual * 7, language / 3).tolist() == pytest.approx(importance(visual, language).tolist())


def test_selection_ranks_content_words_and_breaks_ties_by_place():
    words = ["the", "dog", "?", "runs", "red"]
    visual, language = np.array([9, 1, 9, 1, 3], np.float32), np.zeros(5, np.float32)
    assert select(words, visual, language, 2).tolist() == [4, 1]  # never "the" or "?"
    assert select(words, visual, language, 5).tolist() == [4, 1, 3, NONE, NONE]
    assert select(["the", "?"], np.ones(2, np.float32), np.ones(2, np.float32), 2).tolist() == [NONE, NONE]
    assert select(words, visual, language, 5)[:2].tolist() == select(words, visual, language, 2).tolist()
    assert select(words, visual, language, 2).dtype == np.int16


@pytest.mark.parametrize(
    "word, content",
    [
        ("telegram", True),
        ("?", False),
        ("The", False),
        ("person1 and person3", True),
        ("is", False),
        ("", False),
        ("don't", False),
        ("dog's", True),
        ("2", True),
        ("...", False),
    ],
)
def test_content_words(word, content):
    assert is_content(word) is content


def test_keyword_scores_are_yakes_inverted():
    expected = {
        word: 1 / (1 + float(score))
        for word, score in yake.KeywordExtractor(lan="en", n=1, top=100, dedup_lim=1.0).extract_keywords(" ".join(TEXT))
    }
    scores = dict(zip(TEXT, keyword_scores(TEXT).tolist(), strict=True))
    assert scores["telegram"] == pytest.approx(expected["telegram"], rel=1e-6) and scores["coat"] > scores["man"] > 0
    assert scores["the"] == scores["?"] == scores["person4"] == 0  # the last is no word to YAKE
    assert keyword_scores([]).shape == (0,)


@torch.no_grad()
def test_visual_relevance_is_the_cosine_of_image_and_words_without_stop_words(tiny, pictures):
    clip = Clip("open_clip", str(tiny / "clip"), "random")
    relevance = Relevance(clip)
    image = relevance.embed_images(pictures)[0]
    [vectors] = relevance.embed_words([TEXT])
    content = [place for place, word in enumerate(TEXT) if is_content(word)]
    # CLIP reads the content words alone; a word of several tokens is their mean.
    ids, place = clip.tokens([TEXT[index] for index in content])
    states, _ = clip.text_states([ids])
    projected = clip.project_text(states[0])
    embedding = clip.images(pictures[:1])[0][0]
    found = relevance.score(TEXT, image, vectors, keyword_scores(TEXT), 2)
    for number, index in enumerate(content[:3]):
        own = torch.stack([vector for vector, word in zip(projected, place, strict=True) if word == number]).mean(0)
        cosine = torch.nn.functional.cosine_similarity(own, embedding, dim=0)
        assert found.visual[index] == pytest.approx(float(cosine), abs=1e-5)
    assert all(found.visual[index] == 0 for index in range(len(TEXT)) if index not in content)
    expected = select(TEXT, found.visual, found.language, 2)
    assert found.selected.tolist() == expected.tolist() and set(expected.tolist()) <= set(content)


def test_without_clip_yake_decides_alone(pictures):
    relevance = Relevance(None)
    image, [vectors] = relevance.embed_images(pictures)[0], relevance.embed_words([TEXT])
    found = relevance.score(TEXT, image, vectors, keyword_scores(TEXT), 2)
    assert (found.visual == 0).all() and [TEXT[index] for index in found.selected] == ["sending", "coat"]
    assert relevance.fields["relevance teacher"] == "none" and "yake" in relevance.fields["keywords"]
