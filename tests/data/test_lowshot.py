"""Question types by hand-written questions, and low-shot draws: their rules, a fixed draw, and properties over generated data."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection

import pytest

from vldistill.data.lowshot import (
    LOWSHOT_RULES,
    VCR_DEFAULT,
    VCR_FORMS,
    VCR_PATTERNS,
    VCR_SHARES,
    VQA_DEFAULT,
    VQA_GROUPS,
    Draw,
    TypeCount,
    draw,
    vcr_question_type,
    vqa_question_group,
)
from vldistill.data.records import Record, Word
from vldistill.data.wording import split_words
from vldistill.errors import InputError

LABELS = ["contradiction", "entailment", "neutral"]


def words(text: str) -> list[Word]:
    """Words of a text in which tags are written [0,2].

    >>> words("is [0,2] here")
    ['is', [0, 2], 'here']
    """
    return [json.loads(word) if word.startswith("[") else word for word in text.split()]


def vcr(id: str, type: str | None, label: int | None = 0) -> Record:
    """The record of Q->A, or of QA->R where the id says so."""
    given = ["yes"] if id.endswith(":r") else None
    return Record(id, "vcr", ["movie/clip.jpg"], ["why", [0], "?"], label=label, type=type, given=given)


def entailment(id: str, image: str, label: int | None) -> Record:
    return Record(id, "snli_ve", [f"images/{image}.jpg"], ["a", "man"], label=label)


def question(id: str, image: str, text: str) -> Record:
    # The type is the answer's, as the reader of VQA sets it.
    return Record(id, "vqa", [f"train2014/{image}.jpg"], split_words(text), answers=["yes"] * 10, type="yes/no")


def ids(drawn: Draw) -> list[str]:
    return [record.id for record in drawn.records]


# --- VCR's question types ---------------------------------------------------------------------------------------------


def test_vcr_table_is_the_papers():
    assert list(VCR_PATTERNS) == ["explanation", "mental", "temporal", "scene", "role", "hypothetical", "activity"]
    assert set(VCR_SHARES) == set(VCR_PATTERNS)
    assert list(VCR_SHARES.values()) == [38, 24, 13, 8, 7, 5, 5] and sum(VCR_SHARES.values()) == 100
    published = [word for phrases in VCR_PATTERNS.values() for word in phrases]
    assert len(published) == len(set(published))
    assert set(VCR_FORMS) <= set(published)


@pytest.mark.parametrize("name, phrase", [(name, phrase) for name, phrases in VCR_PATTERNS.items() for phrase in phrases])
def test_vcr_every_key_word_gives_its_type(name, phrase):
    for form in (phrase, *VCR_FORMS.get(phrase, ())):
        assert vcr_question_type(words(f"[3] {form} [0,1] ?")) == name
        assert vcr_question_type(words(f"{form.capitalize()} [0,1] ?")) == name


@pytest.mark.parametrize(
    "name, text",
    [
        ("explanation", "Why is [0] pointing at [1] ?"),
        ("explanation", "How come [0] is alone ?"),
        ("explanation", "How does [2] know [0] ?"),
        ("explanation", "How do [2] and [0] know each other ?"),
        ("mental", "What is [0] thinking ?"),
        ("temporal", "What will [0] do next ?"),
        ("scene", "Where are [0,1] ?"),
        ("scene", "What time of day is it ?"),
        ("role", "What is the relationship between [0] and [1] ?"),
        ("role", "What is [0] 's occupation ?"),
        ("role", "Are [0,1] married ?"),
        ("hypothetical", "What would [0] say ?"),
        ("activity", "What is [0] doing ?"),
    ],
)
def test_vcr_questions(name, text):
    assert vcr_question_type(words(text)) == name


@pytest.mark.parametrize(
    "name, text",
    [
        ("explanation", "Why is [0] feeling angry ?"),
        ("explanation", "How does [0] feel ?"),
        ("explanation", "What is [0] doing and why ?"),
        ("mental", "What is [0] thinking before [1] speaks ?"),
        ("mental", "Where is [0] , who is upset ?"),
        ("mental", "Would [0] be angry ?"),
        ("temporal", "What happened near [0] ?"),
        ("temporal", "What would [0] do after that ?"),
        ("temporal", "What is [0] doing next ?"),
        ("scene", "Where would [0] go ?"),
        ("scene", "Are [0,1] strangers from near here ?"),
        ("role", "Would [0,1] be married ?"),
        ("hypothetical", "What is [0] doing if [1] falls ?"),
    ],
)
def test_vcr_earlier_type_wins(name, text):
    assert vcr_question_type(words(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        "What is [0] holding ?",
        "How [0] does it ?",  # the tag parts the phrase
        "How did [0] come ?",
        "What is the mayor 's lifetime wish ?",  # may, time and if are not words here
        "[0] ?",
        "?",
        "",
    ],
)
def test_vcr_default(text):
    assert vcr_question_type(words(text)) == VCR_DEFAULT == "activity"


def test_vcr_spelling():
    assert vcr_question_type(["WHERE", "'s", [0], "?"]) == "scene"
    assert vcr_question_type(split_words("Where's the man?")) == "scene"
    assert vcr_question_type(split_words("Who’s angry?")) == "mental"
    assert vcr_question_type(["What", "comes", "next?"]) == "temporal"
    assert vcr_question_type(["how", "-", "come", [1]]) == "explanation"


# --- VQA's groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        ("is/are/was", "Is there a dog?"),
        ("is/are/was", "Are these zebras?"),
        ("is/are/was", "Was this photo taken indoors?"),
        ("is/are/was", "Isn't it late?"),
        ("do/does/can", "Do you see a man?"),
        ("do/does/can", "Does the cat look happy?"),
        ("do/does/can", "Can you eat this?"),
        ("do/does/can", "Can't he see?"),
        ("how many", "How many people are there?"),
        ("what color", "What color is the bus?"),
        ("what color", "What colour are the walls?"),
        ("what is/are", "What is the man doing?"),
        ("what is/are", "What's on the table?"),
        ("what is/are", "What is the color of the bus?"),
        ("other what", "What kind of bird is it?"),
        ("other what", "What colored bus is it?"),
        ("other what", "What?"),
        ("where/which", "Which side is lit?"),
        ("who/why/other", "Who is it?"),
        ("who/why/other", "How much is it?"),
        ("who/why/other", "Has it rained?"),
        ("who/why/other", "On what is it?"),
        ("who/why/other", "?"),
        ("who/why/other", ""),
    ],
)
def test_vqa_groups(name, text):
    assert vqa_question_group(split_words(text)) == name


def test_vqa_table():
    assert list(VQA_GROUPS) == [
        "is/are/was",
        "do/does/can",
        "how many",
        "what color",
        "what is/are",
        "other what",
        "where/which",
        "who/why/other",
    ]
    for name, openings in VQA_GROUPS.items():
        for opening in openings:
            assert vqa_question_group([*opening.upper().split(), "this", "?"]) == name
            assert vqa_question_group(['"', *opening.split(), [0], "?"]) == name
    assert vqa_question_group([[0], "is", "here"]) == VQA_DEFAULT
    # An opening of one word must not begin like one of two words of an earlier group, except "what".
    firsts = Counter(opening.split()[0] for openings in VQA_GROUPS.values() for opening in set(openings))
    assert {word for word, count in firsts.items() if count > 1} == {"what"}


# --- generated data -----------------------------------------------------------------------------------------------------


def generated(task: str, rng: random.Random, size: int) -> list[Record]:
    """`size` questions (VCR) or images, with types of very different frequency."""
    records = []
    for i in range(size):
        if task == "vcr":
            name = rng.choices(list(VCR_SHARES), VCR_SHARES.values())[0]
            records += [vcr(f"train-{i}", name), vcr(f"train-{i}:r", name)]
            continue
        for j in range(rng.randint(1, 8)):
            if task == "snli_ve":
                records.append(entailment(f"{i}#{j}", str(i), rng.choices(range(3), (6, 3, 1))[0]))
            else:
                opening = rng.choices(
                    [openings[0] if openings else "who" for openings in VQA_GROUPS.values()], (40, 5, 12, 10, 14, 12, 4, 3)
                )[0]
                records.append(question(f"{i}{j}", str(i), f"{opening} red is it?"))
    rng.shuffle(records)
    return records


def type_of(record: Record) -> str:
    if record.task == "vcr":
        return record.type
    return LABELS[record.label] if record.task == "snli_ve" else vqa_question_group(record.text)


def grouped(records: Collection[Record]) -> dict[str, list[Record]]:
    """The records of each image, or of each question of VCR."""
    groups = defaultdict(list)
    for record in records:
        groups[record.id.removesuffix(":r") if record.task == "vcr" else record.images[0]].append(record)
    return groups


@pytest.fixture(params=[(task, seed) for task in LOWSHOT_RULES for seed in range(6)], ids=lambda param: f"{param[0]}-{param[1]}")
def data(request) -> tuple[str, list[Record], random.Random]:
    task, seed = request.param
    rng = random.Random(seed)
    return task, generated(task, rng, rng.choice([1, 7, 60, 400])), rng


def test_smaller_draws_are_part_of_larger_ones(data):
    task, records, _ = data
    last: set[str] = set()
    for per_type in (1, 2, 3, 5, 10, 40, 1000):
        drawn = draw(records, task, per_type, 3, LABELS)
        assert last <= set(ids(drawn))
        last = set(ids(drawn))


def test_order_of_the_records_does_not_matter(data):
    task, records, rng = data
    first = draw(records, task, 9, 1, LABELS)
    places = {record.id: place for place, record in enumerate(records)}
    assert [places[id] for id in ids(first)] == sorted(places[id] for id in ids(first))
    for other in (records[::-1], sorted(records, key=lambda r: r.id), rng.sample(records, len(records))):
        again = draw(other, task, 9, 1, LABELS)
        assert set(ids(again)) == set(ids(first)) and again.by_type == first.by_type


def test_counts_are_what_was_drawn(data):
    task, records, _ = data
    drawn = draw(records, task, 9, 2, LABELS)
    assert len(set(ids(drawn))) == len(drawn.records) == sum(count.records for count in drawn.by_type.values())
    assert all(count.got <= min(count.wanted, count.available) and count.wanted == 9 for count in drawn.by_type.values())
    assert sum(count.got for count in drawn.by_type.values()) == len(grouped(drawn.records))
    have = Counter(name for rows in grouped(records).values() for name in {type_of(r) for r in rows})
    assert {name: count.available for name, count in drawn.by_type.items() if count.available} == have


def test_rules_of_each_task(data):
    task, records, _ = data
    drawn = draw(records, task, 9, 0, LABELS)
    images, whole = grouped(drawn.records), grouped(records)
    if task != "vqa":
        assert all({r.id for r in images[name]} == {r.id for r in whole[name]} for name in images)
    if task == "vcr":
        have = Counter(type_of(rows[0]) for rows in whole.values())
        assert Counter(type_of(rows[0]) for rows in images.values()) == {name: min(9, n) for name, n in have.items()}
        assert drawn.unit == "questions" and list(drawn.by_type) == list(VCR_SHARES)
    elif task == "snli_ve":
        assert drawn.unit == "images" and list(drawn.by_type) == LABELS
    else:
        # Each image shows one group only, so that the groups' images are disjoint.
        groups = {image: {type_of(r) for r in rows} for image, rows in images.items()}
        assert all(len(group) == 1 for group in groups.values())
        for image, rows in images.items():
            assert len(rows) == min(2, sum(type_of(r) in groups[image] for r in whole[image]))
        got = Counter(name for group in groups.values() for name in group)
        assert got == {name: count.got for name, count in drawn.by_type.items() if count.got}
        assert drawn.unit == "images" and list(drawn.by_type) == list(VQA_GROUPS)


def matching(images: list[set[int]], most: int) -> int:
    """The most images that any assignment to types can place, `most` a type (augmenting paths)."""
    placed: dict[int, list[int]] = defaultdict(list)

    def place(image: int, tried: set[int]) -> bool:
        for name in images[image] - tried:
            tried.add(name)
            if len(placed[name]) < most:
                placed[name].append(image)
                return True
            for i, other in enumerate(placed[name]):
                if place(other, tried):
                    placed[name][i] = image
                    return True
        return False

    return sum(place(image, set()) for image in range(len(images)))


def test_nearly_as_many_as_any_assignment_could_give():
    rng = random.Random(5)
    given = possible = short = 0
    for _ in range(60):
        labels = [f"label {i}" for i in range(rng.randint(2, 8))]
        often = [rng.random() ** 2 for _ in labels]
        images = [{i for i, p in enumerate(often) if rng.random() < p} or {0} for _ in range(rng.choice([6, 20, 60]))]
        records = [entailment(f"{n}#{i}", str(n), i) for n, types in enumerate(images) for i in types]
        per_type = max(1, round(len(images) / len(labels) * rng.uniform(0.6, 1.2)))
        drawn = draw(records, "snli_ve", per_type, 0, labels)
        got, most = sum(count.got for count in drawn.by_type.values()), matching(images, per_type)
        assert 0.9 * most - 1 <= got <= most
        given, possible, short = given + got, possible + most, short + (got < per_type * len(labels))
    assert given > 0.995 * possible and 10 < short < 60


def test_seeds_draw_differently():
    for task in LOWSHOT_RULES:
        records = generated(task, random.Random(0), 800)
        sets = [frozenset(ids(draw(records, task, 10, seed, LABELS))) for seed in range(4)]
        assert len(set(sets)) == 4
        for a in range(4):
            for b in range(a):
                assert len(sets[a] & sets[b]) < 0.6 * len(sets[a])


def test_draws_are_even():
    records = [vcr(f"train-{i}", "role") for i in range(50)]
    times = Counter(id for seed in range(400) for id in ids(draw(records, "vcr", 10, seed, [])))
    # 80 times are expected, with a standard deviation of 8.
    assert len(times) == 50 and all(abs(n - 80) < 35 for n in times.values())


# --- by hand ------------------------------------------------------------------------------------------------------------


def test_labels_that_all_images_have_share_them():
    records = [entailment(f"{i}#{label}", str(i), label) for i in range(30) for label in range(3)]
    drawn = draw(records, "snli_ve", 10, 0, LABELS)
    assert drawn.by_type == {name: TypeCount(10, 10, 30, 30, 30) for name in LABELS}


def test_a_rare_group_gets_its_images():
    records = [question(f"{i}", f"{i}", "Is it?") for i in range(40)]
    records += [question(f"{i}w", f"{i}", "Where is it?") for i in range(20)]
    drawn = draw(records, "vqa", 20, 0, [])
    assert drawn.by_type["where/which"] == TypeCount(20, 20, 20, 20, 20)
    assert drawn.by_type["is/are/was"] == TypeCount(20, 20, 40, 20, 40)


def test_short_types_are_told():
    records = [entailment("a", "1", 0), entailment("b", "1", 2), entailment("c", "2", 0)]
    drawn = draw(records, "snli_ve", 2, 0, LABELS)
    assert drawn.by_type == {
        "contradiction": TypeCount(2, 1, 2, 1, 2),
        "entailment": TypeCount(2, 0, 0, 0, 0),
        "neutral": TypeCount(2, 1, 1, 2, 1),  # image 1, with both hypotheses
    }
    assert ids(drawn) == ["a", "b", "c"]
    assert [(name, count.got) for name, count in draw([], "vcr", 5, 0, []).by_type.items()] == [(name, 0) for name in VCR_SHARES]


def test_folder_of_the_images_does_not_matter():
    records = generated("snli_ve", random.Random(3), 60)
    drawn = draw(records, "snli_ve", 5, 0, LABELS)
    for folder in ("", "deep/er/"):
        for record in records:
            record.images[0] = folder + record.images[0].replace("images/", "")
        assert ids(draw(records, "snli_ve", 5, 0, LABELS)) == ids(drawn)
    # Below the shared folder the whole path counts: one name in many folders is no tie.
    for record in records:
        record.images[0] = record.images[0].replace(".jpg", "/left.jpg")
    assert len({frozenset(ids(draw(records, "snli_ve", 5, seed, LABELS))) for seed in range(4)}) == 4


def test_fixed_draws():
    """What seed 0 draws, written down: a change of the draw makes every published low-shot number another one."""
    questions = [vcr(f"train-{i}", list(VCR_SHARES)[i % 7]) for i in range(28)]
    hypotheses = [entailment(f"{i}#{j}", str(i), (i + j) % 3) for i in range(8) for j in range(1 + i % 3)]
    texts = ["Is it?", "How many?", "Is he?", "Are we?"]
    asked = [question(f"{i}00{j}", f"COCO_{i}", text) for i in range(6) for j, text in enumerate(texts)]
    assert ids(draw(questions, "vcr", 1, 0, [])) == [f"train-{i}" for i in (4, 8, 9, 14, 24, 26, 27)]
    assert ids(draw(hypotheses, "snli_ve", 1, 0, LABELS)) == ["0#0", "4#0", "4#1", "7#0", "7#1"]
    assert ids(draw(asked, "vqa", 2, 0, [])) == ["0001", "1002", "1003", "3001", "5000", "5003"]


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "records, task, per_type, message",
    [
        ([], "nlvr2", 5, "task 'nlvr2' has no low-shot rules.*vcr, snli_ve, vqa"),
        ([], "vcr", 0, "at least 1"),
        ([vcr("a", "role"), vcr("b", None)], "vcr", 1, "1 of 2 records are without a label and a question type.*'b'"),
        ([vcr("a", "role", label=None)], "vcr", 1, "without a label"),
        ([vcr("a", "yes/no")], "vcr", 1, "question type"),
        ([entailment("a", "1", None)], "snli_ve", 1, "without a label"),
        ([entailment("a", "1", 3)], "snli_ve", 1, "label of the artifact's list"),
        ([entailment("a", "1", -1)], "snli_ve", 1, "label of the artifact's list"),
        ([Record("a", "vqa", ["1.jpg"], ["is", "it"])], "vqa", 1, "without answers"),
        ([vcr("a", "role"), vcr("b", "role"), vcr("b", "scene")], "vcr", 1, "'b' appears 2 times"),
    ],
)
def test_refusals(records, task, per_type, message):
    with pytest.raises(InputError, match=message):
        draw(records, task, per_type, 0, LABELS)
