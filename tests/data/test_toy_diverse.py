"""The second toy world: what it says is true of what it shows, the types fall into low-shot groups, and each data set is read."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vldistill.data.artifact import open_data
from vldistill.data.lowshot import vqa_question_group
from vldistill.data.prepare import prepare
from vldistill.data.prepare_toy import prepare_toy
from vldistill.data.sources.jsonl import Jsonl
from vldistill.data.toy.diverse import (
    COLOURS,
    DIVERSE_SIZES,
    SHAPES,
    SYNONYMS,
    TASK_WORDS,
    TYPES,
    DiverseScene,
    ask,
    caption,
    draw_scene,
    render,
    tags,
    texts,
)
from vldistill.data.toy.layouts import write_toy
from vldistill.data.variants import Variants
from vldistill.data.wording import split_words

CONCEPT = {word: concept for concept, words in SYNONYMS.items() for word in words}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def objects(scene: DiverseScene) -> list[tuple[str, str]]:
    return [(COLOURS[colour], SHAPES[shape]) for colour, shape in zip(scene.colours, scene.shapes, strict=True)]


def test_every_word_belongs_to_one_concept():
    assert len(CONCEPT) == sum(map(len, SYNONYMS.values())) == 60
    assert [words[0] for words in SYNONYMS.values()] == [*COLOURS, *SHAPES]


def true_answer(scene: DiverseScene, words: list[str]) -> str:
    """Answered from the words alone, by code that shares nothing with the questions' own."""
    named = [CONCEPT[word] for word in words if word in CONCEPT]
    fitting = [pair for pair in objects(scene) if set(named) <= set(pair)]
    if words[0] in ("is", "can", "any"):
        return "yes" if fitting else "no"
    assert len(fitting) == 1
    return fitting[0][0 if words[:2] == ["what", "color"] else 1]


def test_questions_are_answered_by_their_scene_and_balanced():
    drawn = list(ask(generator(), 1000, TASK_WORDS))
    assert all(true_answer(scene, split_words(question.text)) == question.answer for scene, question in drawn)
    assert Counter(question.type for _, question in drawn) == dict.fromkeys(TYPES, 200)
    told = Counter((question.type, question.answer) for _, question in drawn if question.answer in ("yes", "no"))
    assert set(told.values()) == {100}


def test_questions_use_some_words_only_and_each_type_has_a_group_of_its_own():
    asked = [question for _, question in ask(generator(), 1500, TASK_WORDS)]
    used = {word for question in asked for word in split_words(question.text) if word in CONCEPT}
    assert used == {word for words in SYNONYMS.values() for word in words[:TASK_WORDS]}
    groups = {(question.type, vqa_question_group(split_words(question.text))) for question in asked}
    assert len(groups) == len({group for _, group in groups}) == len(TYPES)


def test_captions_are_true_and_know_the_plain_words_only():
    rng = generator()
    for _ in range(300):
        scene = draw_scene(rng)
        words = [word for word in split_words(caption(rng, scene)) if word in CONCEPT]
        assert all(CONCEPT[word] == word for word in words)
        assert set(zip(words[::2], words[1::2], strict=True)) <= set(objects(scene))


def test_text_alone_uses_every_word_and_never_mixes_colours_or_shapes():
    used = set()
    for text in texts(generator(), 3000):
        words = [word for word in split_words(text) if word in CONCEPT]
        used.update(words)
        concepts = {CONCEPT[word] for word in words}
        assert len(concepts & set(COLOURS)) <= 1 and len(concepts & set(SHAPES)) <= 1
    assert used == set(CONCEPT)


def test_tags_by_hand():
    scene = DiverseScene(np.array([0, 0, 2]), np.array([1, 1, 3]), np.array([0, 4, 8]))  # two red circles and a blue cross
    assert tags(scene) == ["blue", "blue cross", "circle", "cross", "red", "red circle"]


def test_a_plain_picture_shows_each_object_in_its_cell_and_nothing_elsewhere():
    scene = DiverseScene(np.arange(4), np.arange(4), np.array([0, 2, 4, 8]))
    [picture] = render(generator(), [scene], 0.0)
    centres = picture[5:36:12, 5:36:12].reshape(9, 3).astype(int)
    assert centres[[0, 2, 4, 8]].argmax(axis=1).tolist()[:3] == [0, 1, 2]  # red, green, blue
    assert (centres[8] > 60).tolist() == [True, True, False]  # yellow
    assert (centres[[1, 3, 5, 6, 7]] == centres[1, 0]).all()


def test_pictures_grow_wilder_with_their_style_and_are_drawn_alike_from_one_seed():
    scenes = [draw_scene(generator(5)) for _ in range(20)]
    plain, task, wild = (render(generator(1), scenes, style).astype(float) for style in (0.0, 0.4, 1.0))
    assert 0 < abs(task - plain).mean() < abs(wild - plain).mean()
    assert (render(generator(1), scenes, 1.0) == wild).all()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("diverse")
    write_toy(root, datasets=tuple(DIVERSE_SIZES), scale=0.004)
    return root


def test_the_data_sets_are_read_as_what_they_are(raw, tmp_path):
    kinds = {
        "diverse_captions": ("caption", "caption"),
        "diverse_images": (None, "tagging"),
        "diverse_texts": ("text", "text"),
        "diverse_vqa": (None, "vqa"),
    }
    for name, (asked, task) in kinds.items():
        manifest = prepare("jsonl", raw / name, tmp_path / name, options=Jsonl(task=asked, min_answer_count=1))
        assert manifest["task"] == task
        data = open_data(tmp_path / name)
        [record, *_] = data.records("train")
        assert len(record.images) == data.spec.images == (0 if task == "text" else 1)
        assert bool(record.text) == data.spec.text
    labels = open_data(tmp_path / "diverse_images").labels
    row = json.loads((raw / "diverse_images/train.jsonl").read_text().splitlines()[0])
    [first, *_] = open_data(tmp_path / "diverse_images").records("train")
    assert [labels[tag] for tag in first.tags] == row["tags"]
    with Image.open(raw / "diverse_images" / row["image"]) as picture:
        assert picture.size == (36, 36)


def test_prepare_toy_makes_artifacts_that_low_shot_sets_can_be_added_to(tmp_path):
    [manifest] = prepare_toy(
        tmp_path / "data",
        tmp_path / "raw",
        seed=0,
        scale=0.02,
        overwrite=False,
        datasets=("diverse_vqa",),
    )
    assert manifest["task"] == "vqa"
    again = prepare("jsonl", tmp_path / "raw/toy/diverse_vqa", tmp_path / "data/toy-diverse_vqa", variants=Variants((5,)))
    assert again["unchanged"] and len(again["added"]) == 4
    drawn = open_data(tmp_path / "data/toy-diverse_vqa").records("train-lowshot5-seed0")
    assert Counter(record.type for record in drawn) == dict.fromkeys(TYPES, 5)
