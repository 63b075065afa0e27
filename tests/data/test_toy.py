"""The toy world: balance by construction, labels recomputed by separately written code, and the raw layouts on disk."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vldistill.data.toy import tasks
from vldistill.data.toy.layouts import DEFAULT_SIZES, write_toy
from vldistill.data.toy.world import (
    CELL,
    COLOURS,
    EMPTY,
    FILTERS,
    GRID,
    JITTERS,
    KINDS,
    SHAPES,
    SIZES,
    Scene,
    generator,
    render,
)
from vldistill.errors import InputError

SCALE = 0.02  # 120 training scenes


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write_toy(root, scale=SCALE)
    return root


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha1(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shares(rows, key, label) -> dict:
    """Labels counted by `key`."""
    table: dict = defaultdict(Counter)
    for row in rows:
        table[key(row)][label(row)] += 1
    return table


def nlvr2_images(root: Path, split: str, row: dict) -> tuple[Path, Path]:
    folder = root / "nlvr2" / (f"images/train/{row['directory']}" if split == "train" else split)
    stem = row["identifier"].rsplit("-", 1)[0]
    return folder / f"{stem}-img0.png", folder / f"{stem}-img1.png"


# --- an independent reader of scenes and sentences ---------------------------------------------------------------


def see(scene: Scene) -> list[tuple[str, str]]:
    """(colour, shape) of every object in view, without the library's own counting."""
    return [
        (COLOURS[kind % 4], SHAPES[kind // 4])
        for cell, kind in enumerate(scene.kinds.tolist())
        if kind != EMPTY and cell != scene.covered
    ]


def number_of(phrase: str, scene: Scene) -> int:
    """How many objects in view a noun phrase means, singular or plural."""
    *adjective, noun = phrase.split()
    noun = noun.removesuffix("s")
    return sum(noun in ("object", shape) and adjective in ([], [colour]) for colour, shape in see(scene))


def answer_to(question: str, scene: Scene) -> str:
    words = question.removesuffix("?").split()
    if words[:3] == ["is", "there", "a"]:
        return "yes" if number_of(" ".join(words[3:]), scene) else "no"
    if words[:2] == ["how", "many"]:
        return str(number_of(" ".join(words[2:-2]), scene))
    if words[:4] == ["what", "color", "is", "the"]:
        (colour,) = (colour for colour, shape in see(scene) if shape == words[4])
        return colour
    assert words[:4] == ["what", "shape", "is", "the"] and words[5] == "object"
    (shape,) = (shape for colour, shape in see(scene) if colour == words[4])
    return shape


# --- labels are right ------------------------------------------------------------------------------------------


def test_questions_are_answered_right_and_exist_is_balanced():
    asked = list(tasks.ask(generator(5, "train", "vqa"), 300))
    for scene, questions in asked:
        assert all(question.answer == answer_to(question.text, scene) for question in questions)
        exist = [q for q in questions if q.answer_type == "yes/no"]
        assert Counter(q.answer for q in exist) == {"yes": 2, "no": 2}
        assert len({q.text for q in exist}) == 4
        assert len(see(scene)) in range(4, 8) and len(set(questions)) == len(questions)
    exist = [q for _, questions in asked for q in questions if q.answer_type == "yes/no"]
    table = shares(exist, lambda q: q.text, lambda q: q.answer)
    assert len(table) == KINDS
    assert all(count["yes"] == count["no"] for count in table.values())
    types = Counter(q.question_type for _, questions in asked for q in questions)
    assert types["is there a"] == 1200 and types["how many"] == 600
    assert types["what color is the"] > 30 and types["what shape is the"] > 30


def test_comparisons_are_labelled_right():
    sentences = set()
    for left, right, statements in tasks.compare(generator(5, "train", "nlvr2"), 400):
        assert Counter(s.label for s in statements) == {"True": 2, "False": 2}
        assert len({s.text for s in statements}) == 4
        sides = {"left": left, "right": right}
        for statement in statements:
            subject, other = statement.text.removeprefix("the ").removesuffix(" one").split(" than the ")
            side, _, _, word, *phrase = subject.split()
            assert {side, other} == {"left", "right"} and word in ("more", "fewer")
            here, there = (number_of(" ".join(phrase), sides[name]) for name in (side, other))
            assert here != there
            assert statement.label == str(here > there if word == "more" else here < there)
            sentences.add(statement.text)
        assert all(3 <= len(see(scene)) <= 7 for scene in (left, right))
    assert len(sentences) == 4 * len(FILTERS)


def test_how_much_one_image_with_the_sentence_tells_of_a_comparison():
    """The README says so: looking up the commonest label of (sentence, count in one image) is right for nine in ten."""
    table: dict = defaultdict(Counter)
    for left, right, statements in tasks.compare(generator(5, "train", "nlvr2"), 1500):
        for first, flipped in ((left, False), (right, True)):
            for statement in statements:
                subject = FILTERS.index(statement.subject)
                table[statement.text, first.counts()[subject]][(statement.label == "True") != flipped] += 1
    right = sum(max(count.values()) for count in table.values())
    assert 0.86 < right / sum(map(Counter.total, table.values())) < 0.93


def test_hypotheses_are_labelled_right_and_balanced():
    examples = list(tasks.entail(generator(5, "train", "snli_ve"), 600))
    for scene, statements in examples:
        assert Counter(s.label for s in statements) == {"entailment": 1, "neutral": 1, "contradiction": 1}
        assert len(see(scene)) in range(5, 9)
        for statement in statements:
            _, _, _, _, number, *phrase = statement.text.split()
            least = {"two": 2, "three": 3}[number]
            seen = number_of(" ".join(phrase), scene)
            # Whatever stands under the hatch adds nothing or one.
            possible = {seen + hidden >= least for hidden in (0, 1)}
            label = "neutral" if len(possible) == 2 else "entailment" if True in possible else "contradiction"
            assert statement.label == label
    table = shares([s for _, statements in examples for s in statements], lambda s: s.text, lambda s: s.label)
    assert len(table) == 26
    assert all(len(set(count.values())) == 1 and len(count) == 3 for count in table.values())


def test_captions_are_true():
    for scene, captions in tasks.describe(generator(5, "train", "coco"), 200):
        assert len(captions) == 5
        for text in captions:
            for opening in ("there is ", "there are ", "an image of ", "the image shows "):
                text = text.removeprefix(opening)
            for phrase in text.replace(" and ", ", ").split(", "):
                amount, noun = phrase.split(" ", 1)
                number = 1 if amount == "a" else tasks.NUMBERS.index(amount)
                assert number == number_of(noun, scene) and noun.endswith("s") == (number > 1)


# --- no single modality answers: on the files, as a loader sees them -----------------------------------------------


@pytest.mark.parametrize("split", DEFAULT_SIZES["nlvr2"])
def test_nlvr2_text_alone_and_images_alone_stay_at_chance(toy, split):
    rows = lines(toy / "nlvr2" / f"{split}.json")
    pictures = {row["identifier"]: tuple(p.read_bytes() for p in nlvr2_images(toy, split, row)) for row in rows}

    def by(key):
        return shares(rows, key, lambda row: row["label"])

    for table in (
        by(lambda row: row["sentence"]),  # the text alone
        by(lambda row: pictures[row["identifier"]]),  # the two images, in order
        by(lambda row: (row["sentence"], frozenset(pictures[row["identifier"]]))),  # all but the order of the images
    ):
        assert all(count["True"] == count["False"] for count in table.values())
    # Whichever of the two images is left, and whatever it shows, says nothing either without the text.
    for side in (0, 1):
        table = by(lambda row, side=side: pictures[row["identifier"]][side])
        assert all(count["True"] == count["False"] for count in table.values())


def test_nlvr2_mirrored_pairs_show_the_same_pictures(toy):
    for row in lines(toy / "nlvr2" / "dev.json"):
        split, number, pair, sentence = row["identifier"].split("-")
        mirror = row | {"identifier": f"{split}-{number}-{1 - int(pair)}-{sentence}"}
        here, there = (nlvr2_images(toy, "dev", r) for r in (row, mirror))
        assert [p.read_bytes() for p in here] == [p.read_bytes() for p in reversed(there)]


def test_snli_ve_labels_are_uniform_per_image_and_per_hypothesis(toy):
    for split in DEFAULT_SIZES["snli_ve"]:
        rows = lines(toy / "snli_ve" / f"snli_ve_{split}.jsonl")
        for key in ("Flickr30K_ID", "sentence2"):
            for count in shares(rows, lambda row, key=key: row[key], lambda row: row["gold_label"]).values():
                assert len(count) == 3 and len(set(count.values())) == 1


# --- the layouts ------------------------------------------------------------------------------------------------


def test_vqa_layout(toy):
    root = toy / "vqa"
    for split in ("train", "val"):
        questions = json.loads((root / f"v2_OpenEnded_mscoco_{split}2014_questions.json").read_text())
        annotations = json.loads((root / f"v2_mscoco_{split}2014_annotations.json").read_text())
        assert questions["data_subtype"] == annotations["data_subtype"] == f"{split}2014"
        asked = {q["question_id"]: q for q in questions["questions"]}
        answered = {a["question_id"]: a for a in annotations["annotations"]}
        assert len(asked) == len(questions["questions"]) and asked.keys() == answered.keys()
        for key, annotation in answered.items():
            assert annotation["image_id"] == asked[key]["image_id"]
            assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
            assert {a["answer"] for a in annotation["answers"]} == {annotation["multiple_choice_answer"]}
            assert asked[key]["question"].startswith(annotation["question_type"])
        named = {f"COCO_{split}2014_{q['image_id']:012d}.jpg" for q in asked.values()}
        assert named == {p.name for p in (root / f"{split}2014").iterdir()}


def test_nlvr2_layout(toy):
    for split in DEFAULT_SIZES["nlvr2"]:
        rows = lines(toy / "nlvr2" / f"{split}.json")
        assert len({row["identifier"] for row in rows}) == len(rows)
        assert all(row["identifier"].startswith(f"{split}-") and row["label"] in ("True", "False") for row in rows)
        assert all(path.exists() for row in rows for path in nlvr2_images(toy, split, row))
        assert all(("directory" in row) == (split == "train") for row in rows)


def test_snli_ve_layout(toy):
    images = {p.stem for p in (toy / "snli_ve" / "flickr30k-images").iterdir()}
    rows = {split: lines(toy / "snli_ve" / f"snli_ve_{split}.jsonl") for split in DEFAULT_SIZES["snli_ve"]}
    used = [{row["Flickr30K_ID"] for row in split} for split in rows.values()]
    assert set.union(*used) == images and sum(map(len, used)) == len(images)
    everything = [row for split in rows.values() for row in split]
    assert len({row["pairID"] for row in everything}) == len(everything)
    assert all(row["captionID"] == f"{row['Flickr30K_ID']}.jpg#0" and row["sentence1"] for row in everything)


def test_karpathy_layout(toy):
    data = json.loads((toy / "coco" / "dataset_coco.json").read_text())
    images = data["images"]
    assert data["dataset"] == "coco" and [image["imgid"] for image in images] == list(range(len(images)))
    assert len({image["cocoid"] for image in images}) == len(images)
    assert {image["split"] for image in images} == {"train", "val", "test"}
    for image in images:
        assert (toy / "coco" / image["filepath"] / image["filename"]).exists()
        assert [s["sentid"] for s in image["sentences"]] == image["sentids"]
        assert all(s["imgid"] == image["imgid"] for s in image["sentences"])
        assert all(" ".join(s["tokens"]) == s["raw"].replace(",", "") for s in image["sentences"])
    sentids = [sentid for image in images for sentid in image["sentids"]]
    assert sentids == list(range(len(sentids)))


def test_pictures_on_disk_are_the_scenes(toy):
    scenes = [scene for left, right, _ in tasks.compare(generator(0, "dev", "nlvr2"), 5) for scene in (left, right)]
    for i, pixels in enumerate(render(scenes)):
        with Image.open(toy / "nlvr2" / "dev" / f"dev-{i // 2}-0-img{i % 2}.png") as image:
            assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)
    scenes = [scene for scene, _ in tasks.entail(generator(0, "dev", "snli_ve"), 9)]
    paths = sorted((toy / "snli_ve" / "flickr30k-images").glob("2*.jpg"))
    for path, pixels in zip(paths, render(scenes), strict=False):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert abs(np.asarray(image).astype(int) - pixels).mean() < 4


def test_no_two_splits_share_a_pair_of_pictures(toy):
    seen: dict[frozenset, str] = {}
    for split in DEFAULT_SIZES["nlvr2"]:
        for row in lines(toy / "nlvr2" / f"{split}.json"):
            key = frozenset(path.read_bytes() for path in nlvr2_images(toy, split, row))
            assert seen.setdefault(key, split) == split


# --- the whole ----------------------------------------------------------------------------------------------------


def test_one_seed_gives_one_world(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_toy(tmp_path / name, seed=seed, scale=0.001)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert len(a.keys() & c.keys()) > 30
    assert not [name for name in a.keys() & c.keys() if a[name] == c[name]]


def test_a_dataset_does_not_depend_on_the_others(tmp_path):
    write_toy(tmp_path / "all", scale=0.001)
    counts = write_toy(tmp_path / "one", scale=0.001, datasets=("snli_ve",))
    assert counts == {"snli_ve/train": 18, "snli_ve/dev": 18, "snli_ve/test": 18}
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["snli_ve"]
    assert digests(tmp_path / "one" / "snli_ve") == digests(tmp_path / "all" / "snli_ve")


def test_sizes_and_counts(tmp_path):
    counts = write_toy(
        tmp_path,
        datasets=("nlvr2", "coco"),
        sizes={"nlvr2": {"train": 7, "dev": 4, "test1": 4}, "coco": {"train": 6, "val": 4, "test": 4}},
    )
    assert counts == {"nlvr2/train": 56, "nlvr2/dev": 32, "nlvr2/test1": 32, "coco/train": 30, "coco/val": 20, "coco/test": 20}
    assert len(lines(tmp_path / "nlvr2" / "train.json")) == 56


@pytest.mark.parametrize(
    "wrong",
    [
        {"datasets": ("vqa", "gqa")},
        {"sizes": {"coco": {"dev": 3}}},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"seed": -1},
        {"scale": 1000.0},
    ],
)
def test_a_wrong_argument_is_refused_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(InputError):
        write_toy(tmp_path / "toy", **wrong)
    assert not (tmp_path / "toy").exists()


def test_an_existing_folder_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "coco").mkdir()
    with pytest.raises(InputError, match="already exists"):
        write_toy(tmp_path, scale=0.001)
    assert [p.name for p in tmp_path.iterdir()] == ["coco"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "describe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_toy(tmp_path / "toy", scale=0.001)
    assert not list(tmp_path.iterdir())


def test_sprites_stay_in_their_cells_and_differ():
    scenes = [Scene(np.full(9, kind), np.full(9, size), np.arange(JITTERS)) for kind in range(KINDS) for size in range(SIZES)]
    empty = render([Scene(np.full(9, EMPTY), np.zeros(9, int), np.zeros(9, int))])[0]
    assert len(np.unique(empty.reshape(-1, 3), axis=0)) == 1
    cells = render(scenes).reshape(-1, GRID, CELL, GRID, CELL, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, CELL, CELL, 3)
    assert len({cell.tobytes() for cell in cells}) == KINDS * SIZES * JITTERS
    lit = (cells != empty[0, 0]).any(axis=-1)
    assert (lit.sum(axis=(1, 2)) > 20).all()
    # A sprite clipped at the border of its cell would be darker than at its other offsets.
    sums = cells.astype(int).sum(axis=(1, 2, 3)).reshape(KINDS * SIZES, JITTERS)
    assert (sums == sums[:, :1]).all()


def test_the_filters_read_as_english():
    assert len(FILTERS) == 19 and len({f.plural for f in FILTERS}) == 19
    assert [FILTERS[i].plural for i in (0, 5, 8)] == ["red objects", "circles", "green squares"]
    assert [FILTERS[i].singular for i in (0, 5, 8)] == ["red object", "circle", "green square"]
    open_ = Counter((f.colour is None, f.shape is None) for f in FILTERS)
    assert open_ == {(False, True): 4, (True, False): 3, (False, False): 12}
