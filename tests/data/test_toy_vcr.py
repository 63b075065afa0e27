"""The toy VCR: what its pictures decide, recomputed from boxes and pixels; its layout, types and shortcuts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vldistill.data.lowshot import VCR_SHARES, vcr_question_type
from vldistill.data.shift import shift_plural, shift_singular
from vldistill.data.toy.layouts import write_toy
from vldistill.data.toy.vcr_topics import TOPICS

CELL, GRID = 12, 3
PALETTE = {"red": (222, 48, 48), "green": (52, 178, 76), "blue": (66, 104, 240), "yellow": (240, 214, 52)}
NUMBERS = ("one", "two", "three")
OPENINGS = (["i", "see", "that"], ["in", "the", "picture"], ["i", "think"], ["maybe"])


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write_toy(root, scale=0.1, datasets=("vcr",))
    return root / "vcr"


def lines(toy: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (toy / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def asked(toy) -> list[tuple[dict, Stage]]:
    """Every labelled question with what its picture shows."""
    return [(row, Stage(toy, row)) for split in ("train", "val") for row in lines(toy, split)]


class Stage:
    """What a picture shows, from its file and its boxes: names, colours and cells of the objects."""

    def __init__(self, toy: Path, row: dict):
        metadata = json.loads((toy / "vcr1images" / row["metadata_fn"]).read_text())
        with Image.open(toy / "vcr1images" / row["img_fn"]) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        self.names, self.metadata, self.pixels = metadata["names"], metadata, pixels
        self.cells, self.colours = [], []
        for left, top, right, bottom, _ in metadata["boxes"]:
            x, y = int(left + right) // 2, int(top + bottom) // 2
            self.cells.append((y // CELL, x // CELL))
            self.colours.append(min(PALETTE, key=lambda name: np.abs(pixels[y, x] - PALETTE[name]).sum()))

    def name_at(self, row: int, column: int) -> str:
        return self.names[self.cells.index((row, column))] if (row, column) in self.cells else "object"

    def beside(self, one: int, other: int) -> bool:
        return sum(abs(a - b) for a, b in zip(self.cells[one], self.cells[other], strict=True)) == 1


def about(question: list, names: list[str]) -> list[int]:
    """Whom a question is about; the other object that some name is not among them."""
    persons: list[int] = []
    for before, word in zip([None, *question], question, strict=False):
        if not isinstance(word, list):
            continue
        if before != "at" and not (before == "of" and "color" in question):
            persons += [i for i in word if names[i] == "person" and i not in persons]
    return persons


def predicate(choice: list) -> list:
    """A choice without its opening and its mention of people, in lower case."""
    words = [word.lower() if isinstance(word, str) else word for word in choice]
    opening = next((o for o in OPENINGS if words[: len(o)] == o), [])
    return words[len(opening) + 1 :]


def holds(rationale: list, persons: list[int], stage: Stage) -> bool:
    """Whether a rationale, read as being about `persons`, is true of the picture."""
    words = predicate(rationale)
    plain = [word for word in words if isinstance(word, str)]
    others = [word[0] for word in words if isinstance(word, list)]
    colours = {stage.colours[person] for person in persons}
    text = " ".join(plain)
    row, column = stage.cells[persons[0]]
    if "row" in plain:
        if plain[:2] == ["is", "in"]:
            return (row, column) == (NUMBERS.index(plain[3]), NUMBERS.index(plain[6]))
        rows = {stage.cells[person][0] for person in persons}
        return len(rows) > 1 if "no" in plain else rows == {NUMBERS.index(plain[2])}
    if text.startswith("has ") and plain[-2] in ("right", "underneath", "overhead"):
        place = {"right": (row, column + 1), "underneath": (row + 1, column), "overhead": (row - 1, column)}[plain[-2]]
        return stage.name_at(*place) == plain[2]
    if text.startswith(("has ", "lacks ")):
        same = stage.colours[others[0]] in colours
        return (same == (plain[0] == "has")) and stage.beside(persons[0], others[0]) == ("beside" in plain)
    if text.startswith("have "):
        return (len(colours) == 1) == ("same" in plain) and stage.beside(*persons) == ("side" in plain)
    (named,) = set(plain) & PALETTE.keys()
    return stage.colours[others[0]] == named if others else colours == {named}


def test_the_right_rationale_is_the_only_true_one(asked):
    for row, stage in asked:
        persons = about(row["question"], stage.names)
        assert persons and all(stage.names[person] == "person" for person in persons)
        truths = [holds(choice, persons, stage) for choice in row["rationale_choices"]]
        assert truths == [i == row["rationale_label"] for i in range(4)], row


def test_an_answer_says_what_its_rationale_means(asked):
    """Of each topic, the right answer follows from the right rationale, and the other way round."""
    forward: dict[tuple, str] = {}
    for row, _ in asked:
        form = " ".join(word if isinstance(word, str) else f"[{len(word)}]" for word in row["question"])
        answer, rationale = (
            " ".join(word if isinstance(word, str) else "[]" for word in predicate(row[f"{part}_choices"][row[f"{part}_label"]]))
            for part in ("answer", "rationale")
        )
        assert forward.setdefault((form, rationale), answer) == answer
    backward = {(form, answer) for (form, _), answer in forward.items()}
    assert len(backward) == len(forward) and len(forward) > 60


def test_the_domain_shift_leaves_one_right_rationale(asked):
    kinds: Counter[str] = Counter()
    for row, stage in asked:
        persons = about(row["question"], stage.names)
        for kind, rule in (("singular", shift_singular), ("plural", shift_plural)):
            shifted = rule(row["question"], row["rationale_choices"], row["rationale_label"], row["objects"])
            if shifted is None:
                continue
            kinds[kind] += 1
            truths = [holds(choice, persons, stage) for choice in shifted.choices]
            assert truths == [i == row["rationale_label"] for i in range(4)]
            kinds[f"{kind} changed"] += sum(shifted.changed)
    assert kinds["singular"] > 200 and kinds["plural"] > 40, kinds
    assert kinds["singular changed"] > kinds["singular"] and kinds["plural changed"] > kinds["plural"], kinds


def test_the_question_s_tag_is_the_shortcut_that_the_shift_takes_away(asked):
    """The choice that repeats the question's tag is mostly right; after the shift it is mostly wrong."""
    right: Counter[str] = Counter()
    for row, _ in asked:
        tags = [word for word in row["question"] if isinstance(word, list)]
        shifted = shift_singular(row["question"], row["answer_choices"], row["answer_label"], row["objects"])
        if shifted is None or len(tags) != 1 or len(tags[0]) > 1:
            continue
        for name, choices in (("before", row["answer_choices"]), ("after", shifted.choices)):
            repeating = [i for i, choice in enumerate(choices) if tags[0] in choice]
            right[f"{name} repeats"] += len(repeating)
            right[name] += row["answer_label"] in repeating
    assert right["before"] / right["before repeats"] > 0.4 > 0.1 > right["after"] / right["after repeats"]


def test_types_are_those_of_the_table_in_the_published_shares(toy, asked):
    counts = Counter(vcr_question_type(row["question"]) for row, _ in asked)
    assert set(counts) == set(VCR_SHARES)
    for name, share in VCR_SHARES.items():
        assert abs(100 * counts[name] / len(asked) - share) < 6, counts
    for topic in TOPICS:
        for wording in topic.questions:
            words = [[0] if word.startswith("{") and word != "{he}" else word for word in wording.split()]
            assert vcr_question_type(words) == topic.type, wording


def test_right_choices_stand_in_every_place_equally_often(asked):
    for part in ("answer", "rationale"):
        counts = Counter(row[f"{part}_label"] for row, _ in asked)
        assert max(counts.values()) - min(counts.values()) <= 2  # one block of four may be cut short in each split


def test_layout(toy):
    for split in ("train", "val", "test"):
        rows = lines(toy, split)
        assert [row["annot_id"] for row in rows] == [f"{split}-{i}" for i in range(len(rows))]
        for row in rows:
            labelled = split != "test"
            assert all(
                (f"{part}_{name}" in row) == labelled
                for part in ("answer", "rationale")
                for name in ("label", "orig", "match_iter", "sources")
            )
            assert len(row["answer_choices"]) == len(row["rationale_choices"]) == 4
            assert len({json.dumps(predicate(choice)) for choice in row["answer_choices"]}) == 4
            assert (toy / "vcr1images" / row["img_fn"]).is_file()
            if labelled:
                own = row["answer_sources"][row["answer_label"]]
                assert own == row["match_index"] and row["answer_match_iter"][row["answer_label"]] == 0
                assert sorted(row["answer_match_iter"]) == [0, 1, 2, 3]


def test_boxes_and_polygons_enclose_the_objects(asked):
    for _, stage in asked[::25]:
        metadata = stage.metadata
        assert (metadata["width"], metadata["height"]) == (36, 36)
        people = stage.names.count("person")
        assert stage.names[:people] == ["person"] * people and "person" not in stage.names[people:]
        assert len(set(stage.cells)) == len(stage.cells)
        bright = stage.pixels.max(axis=-1) > 150
        for (left, top, right, bottom, confidence), (polygon,) in zip(metadata["boxes"], metadata["segms"], strict=True):
            xs, ys = zip(*polygon, strict=True)
            assert (min(xs), min(ys), max(xs), max(ys)) == (left, top, right, bottom) and confidence == 1
            bright[int(top) : int(bottom), int(left) : int(right)] = False
            area = sum(x * y2 - x2 * y for (x, y), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True)) / 2
            assert 0.4 < abs(area) / ((right - left) * (bottom - top)) <= 1
        assert not bright.any()
