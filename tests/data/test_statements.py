"""Statements from questions and answers: each template of the ADVL paper's Fig. 4, their order, and what all have in common."""

from __future__ import annotations

import copy
import json
import random

import pytest

from vldistill.data.records import Word
from vldistill.data.statements import NO_TEMPLATE, vcr_statement, vqa_statement


def words(text: str) -> list[Word]:
    """Words of a text in which tags are written [0,2]."""
    return [json.loads(word) if word.startswith("[") else word for word in text.split()]


CASES = [
    # template, question, answer, statement
    ("1a", "What will happen next ?", "[1] will run .", "[1] will run ."),
    ("1b", "What would [0] do if [1] fell ?", "[0] would help .", "if [1] fell [0] would help ."),
    ("1c", "What will [0] do after lunch ?", "Rest .", "after lunch rest ."),
    *[
        ("1d", f"What {verb} [0] doing ?", "[0] is running .", "[0] is running .")
        for verb in ("is", "are", "was", "has", "do", "did")
    ],
    ("1e", "What would [0] say ?", "No .", "no ."),
    *[("1f", f"What {verb} [0] say ?", "Hello .", "hello .") for verb in ("will", "might")],
    ("2a", "Whose house is this ?", "[0] 's", "[0] 's is this"),
    ("2a", "Whose children are they ?", "[0] 's", "[0] 's are they"),
    *[
        ("3a", f"Why {verb} [0,2] sad today ?", "They lost .", f"[0,2] {verb} sad today because they lost .")
        for verb in ("does", "do", "are", "is", "did", "would")
    ],
    ("4a", "How would [0] react if [1] left ?", "[0] would cry .", "if [1] left [0] would cry ."),
    ("4b", "How does [0] feel ?", "[0] is sad .", "[0] is sad ."),
    ("4b", "How are [0,1] feeling ?", "They are sad .", "they are sad ."),
    *[("4c", f"How {verb} [0] here ?", "By car .", "by car .") for verb in ("do", "will", "is")],
    ("5a", "Where are they ?", "In [2] .", "in [2] ."),
    *[
        ("6a", f"{verb} [0] at home ?", "Yes , [0] sleeps .", f"[0] {verb.lower()} at home , [0] sleeps .")
        for verb in ("Is", "Can", "Does", "Do", "Was", "Are", "Did", "Will")
    ],
    ("6a", "Is [0] at home ?", "No , [0] left .", "[0] is not at home , [0] left ."),
    ("6a", "Is [0] at home ?", "Yes , no doubt .", "[0] is at home , no doubt ."),  # yes outweighs no
    ("6a", "Is [0] at home ?", "Surely , maybe .", "[0] is at home , maybe ."),  # neither counts as yes; its word goes
    ("6a", "Is [0] at home ?", "[0] left .", "[0] is at home left ."),
    ("6a", "Is [0] at home ?", "Nobody knows .", "[0] is at home knows ."),  # no is a whole word
    ("7a", "Who is [0] ?", "[0] is a cook .", "[0] is a cook ."),
    ("8a", "Which of them is old ?", "[0] is .", "[0] is ."),
]


@pytest.mark.parametrize("template, question, answer, statement", CASES)
def test_each_template(template, question, answer, statement):
    found = vcr_statement(words(question), words(answer))
    assert (found.template, found.words) == (template, words(statement))


@pytest.mark.parametrize(
    "template, question, statement",
    [
        ("1a", "what will happen next ? if", "it is ."),  # 1a asks for the first five words only
        ("1f", "what will happen next", "it is ."),  # no question mark: 1f
        ("1f", "what will happen next to [0] ?", "it is ."),
        ("1b", "what is [0] doing after if ?", "if it is ."),  # 1b before 1c and 1d
        ("1b", "what would [0] do if so ?", "if so it is ."),  # 1b before 1e
        ("1c", "what is [0] doing after this ?", "after this it is ."),  # 1c before 1d
        ("1c", "what will happen after this ?", "after this it is ."),  # 1c before 1f
        ("2a", "whose are these , what is it ?", "it is . is it"),  # is before are
        ("4a", "how will [0] feel if so ?", "if so it is ."),  # 4a before 4b and 4c
        ("4b", "how is [0] feeling ?", "it is ."),  # 4b before 4c
        ("4b", "how does the feel matter ?", "it is ."),
        ("5a", "where is [0] if not here ?", "it is ."),  # if counts after what and how only
        ("7a", "who will feel it after all ?", "it is ."),
    ],
)
def test_the_first_rule_that_fits_is_taken(template, question, statement):
    found = vcr_statement(words(question), words("it is ."))
    assert (found.template, found.words) == (template, words(statement))


@pytest.mark.parametrize(
    "question",
    [
        "What does [0] want ?",  # does is not in 1d's list
        "What [0] wants ?",
        "Whose was it ?",
        "Why not ?",
        "Why [0] ?",
        "How did [0] come ?",
        "How old [0] must be ?",
        "When does [0] sleep ?",
        "Could [0] sleep ?",
        "[0] sleeps ?",
        "What",
        "?",
        "",
    ],
)
def test_without_a_rule_the_two_are_joined(question):
    found = vcr_statement(words(question), words("Who knows .")).words
    assert found == words(question.lower() + " who knows .")
    assert vcr_statement(words(question), words("Who knows .")).template == NO_TEMPLATE


def test_only_a_question_mark_is_cut_off():
    assert vcr_statement(words("why is [0] sad"), words("rain")).words == words("[0] is sad because rain")
    assert vcr_statement(words("is [0] sad"), words("yes .")).words == words("[0] is sad .")
    assert vcr_statement(words("what would [0] do if sad"), words("cry")).words == words("if sad cry")


@pytest.mark.parametrize(
    "question, statement",
    [
        ("what is it ?", ""),
        ("why is [0] sad ?", "[0] is sad because"),
        ("is [0] sad ?", "[0] is sad"),
        ("whose is it ?", "is it"),
        ("when ?", "when ?"),
    ],
)
def test_empty_answers(question, statement):
    assert vcr_statement(words(question), []).words == words(statement)


SHORT = ["why", "why ?", "why is", "why is ?", "is", "is ?", "is [0]", "whose is", "how if", "what if ?"]


@pytest.mark.parametrize("question", SHORT)
def test_questions_too_short_for_their_rule_are_no_error(question):
    assert all(isinstance(word, str) or word == [0] for word in vcr_statement(words(question), ["yes"]).words)


def test_vqa_statement_is_the_plain_join():
    found = vqa_statement(["Is", "it", "?"], ["Yes"])
    assert (found.words, found.template) == (["Is", "it", "?", "Yes"], NO_TEMPLATE)
    assert vqa_statement(["Is", [0], "?"], []).words == ["Is", [0], "?"]


FIRST = ["What", "whose", "Why", "how", "where", "is", "Did", "who", "which", "when"]
LATER = ["will", "is", "are", "does", "would", "if", "after", "feel", "yes", "no", "?"]


@pytest.mark.parametrize("make, templates", [(vcr_statement, 15), (vqa_statement, 1)])
def test_arguments_are_neither_changed_nor_shared(make, templates):
    draw = random.Random(3)
    found = set()

    def text() -> list[Word]:
        later = [draw.choice(LATER) if draw.random() < 0.7 else [draw.randrange(3), 3] for _ in range(draw.randint(0, 5))]
        return [draw.choice(FIRST), *later]

    for _ in range(2000):
        question, answer = text(), text()
        before = copy.deepcopy((question, answer))
        statement = make(question, answer)
        assert (question, answer) == before
        found.add(statement.template)
        given = [word for word in question + answer if isinstance(word, list)]
        assert all(word in given for word in statement.words if isinstance(word, list))
        assert not {id(word) for word in given} & {id(word) for word in statement.words}
    assert len(found) == templates  # all but 1a, and where no rule fits
