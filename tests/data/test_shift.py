"""The domain shift: the published VCR examples (yekeren/VCR-shortcut-effects-study), each odd case of its rules by hand,
properties over generated annotations, and the word tables of SNLI-VE and VQA."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

from vldistill.data.records import Word
from vldistill.data.shift import SNLI_VE_RULES, VQA_RULES, shift_plural, shift_singular, shift_words
from vldistill.data.wording import split_words

EXAMPLES = json.loads(Path(__file__).with_name("vcr_shift_examples.json").read_text(encoding="utf-8"))["examples"]
RULES = {"singular": shift_singular, "plural": shift_plural}

# Persons 0, 1, 3 and 4; object 2 is a car.
OBJECTS = ["person", "person", "car", "person", "person"]


def words(text: str) -> list[Word]:
    """Words of a text in which tags are written [0,2].

    >>> words("is [0,2] here")
    ['is', [0, 2], 'here']
    """
    return [json.loads(word) if word.startswith("[") else word for word in text.split()]


def check(rule, question: str, choice: str, *, right: bool, shifted: str | None) -> None:
    """Holds what a rule makes of a right or wrong choice against `shifted`; None: the choice is not eligible and stays."""
    result = rule(words(question), [[], words(choice)], int(right), OBJECTS)
    assert result.choices == [[], words(choice if shifted is None else shifted)]
    assert result.eligible == (False, shifted is not None)
    assert result.changed == (False, shifted not in (None, choice))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["annot"])
def test_published_examples(example):
    objects = ["person" if i in example["persons"] else "chair" for i in range(10)]
    result = RULES[example["rule"]](example["question"], example["choices"], example["answer_label"], objects)
    assert result.choices == example["shifted"]
    assert result.changed == tuple(a != b for a, b in zip(example["choices"], example["shifted"], strict=True))
    others = [rule for name, rule in RULES.items() if name != example["rule"]]
    assert [rule(example["question"], example["choices"], 0, objects) for rule in others] == [None]


# --- singular -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question, selected",
    [
        ("why is [0] sad ?", True),
        ("why is [0] looking at [0] ?", True),
        ("why is [0] in [2] ?", True),
        ("why are [0,2] here ?", True),  # one person beside a car
        ("why are [0,0] here ?", True),
        ("why is [2] here ?", False),
        ("why is he here ?", False),
        ("why is [0] looking at [1] ?", False),
        ("why are [0,1] here ?", False),
        ("", False),
    ],
)
def test_singular_selection(question, selected):
    assert (shift_singular(words(question), [["yes"]], 0, OBJECTS) is not None) == selected


@pytest.mark.parametrize(
    "choice, shifted",
    [
        ("[1] runs .", "[0] runs ."),
        ("[1] said [1] runs .", "[0] said [0] runs ."),
        ("He runs . he falls .", "[0] runs . [0] falls ."),  # one distinct pronoun
        ("She and he run .", None),
        ("[1] knows he is late .", None),
        ("[1] and [3] run .", None),
        ("[1,3] run .", None),
        ("nobody runs .", None),
        ("", None),
        ("[2] is parked .", None),
        ("[1] is in [2] .", "[0] is in [2] ."),
        ("[1,2] are old .", "[1,2] are old ."),  # person 1 counts, but the word is not the tag [1]
        ("[1] is near [1,2] .", "[0] is near [1,2] ."),
        ("HE runs .", "HE runs ."),  # counts, is not replaced
        ("HE says he runs .", "HE says [0] runs ."),
        ("[1] runs . HE falls .", None),
        ("her dog bit him .", None),  # neither counts
        ("He lost his dog .", "[0] lost his dog ."),
        ("[0] runs .", "[0] runs ."),
    ],
)
def test_singular_wrong_choice(choice, shifted):
    check(shift_singular, "why is [0] sad ?", choice, right=False, shifted=shifted)


@pytest.mark.parametrize(
    "question, choice, shifted",
    [
        ("why is [0] sad ?", "[0] lost .", "He lost ."),
        ("why is [0] sad ?", "[1] lost .", "He lost ."),  # whoever it is
        ("why is [0] sad ?", "the dog of [0] died .", "the dog of he died ."),  # case is not repaired
        ("why is [0] sad ?", "[0] 's dog died .", "He 's dog died ."),
        ("why is [0] sad ?", "[0] lost . [0] cries .", "He lost . he cries ."),  # a capital at the start only
        ("why is [0] sad ?", "[0] lost her dog .", "She lost her dog ."),
        ("why is [0] sad ?", "[0] lost Hers .", "She lost Hers ."),
        ("why is [0] sad ?", "[0] lost HER dog .", "He lost HER dog ."),
        ("why is [0] sad with her dog ?", "[0] lost .", "She lost ."),
        ("why is [0] sad with her dog and her cat ?", "[0] lost his dog .", "He lost his dog ."),  # no tie: the choice alone
        ("why is [0] sad with his dog ?", "[0] gave him hers .", "He gave him hers ."),  # a tie, then the question
        ("why is [0] sad with her dog ?", "[0] gave him hers .", "She gave him hers ."),
        ("why is [0] sad with her dog ?", "[0] gave him hers and his .", "He gave him hers and his ."),
        ("is [0] with his dog or her cat ?", "[0] lost .", "He lost ."),
        ("why is [0] sad ?", "He lost .", "He lost ."),  # eligible, and stays
        ("why is [0] sad ?", "SHE lost .", "SHE lost ."),
        ("why is [0] sad ?", "[1,2] are old .", "[1,2] are old ."),
        ("why is [0] sad ?", "[0] knows she lost .", None),
        ("why is [0] sad ?", "[0] knows [1] .", None),
        ("why is [0] sad ?", "it rains .", None),
    ],
)
def test_singular_right_choice(question, choice, shifted):
    check(shift_singular, question, choice, right=True, shifted=shifted)


def test_only_the_class_person_counts():
    objects = ["person", "personal computer", "Person"]
    assert shift_singular(words("is [0,1,2] here ?"), [["yes"]], 0, objects) is not None
    assert shift_singular(words("is [2] here ?"), [["yes"]], 0, objects) is None
    assert shift_plural(words("are [0,2] here ?"), [["yes"]], 0, objects) is None


# --- plural ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question, selected",
    [
        ("why are [0,1] sad ?", True),
        ("why are [3,0,1] sad ?", True),
        ("why are [1,1] sad ?", True),  # a repeated index is not noticed
        ("why is [0] sad ?", False),
        ("why are [0,2] here ?", False),
        ("why are [0,1] in [2] ?", False),  # a second tag of any kind
        ("why are [0,1] looking at [0,1] ?", False),
        ("why are they sad ?", False),
        ("", False),
    ],
)
def test_plural_selection(question, selected):
    assert (shift_plural(words(question), [["yes"]], 0, OBJECTS) is not None) == selected


@pytest.mark.parametrize(
    "choice, shifted",
    [
        ("[1,3] run .", "[0,4] run ."),
        ("They run .", "[0,4] run ."),
        ("They say they run .", "[0,4] say [0,4] run ."),
        ("[1,3] say they run .", "[0,4] say [0,4] run ."),
        ("[0,4] run .", "[0,4] run ."),
        ("[3,1] run .", "[3,1] run ."),  # unsorted: eligible, never found
        ("[3,1] say they run .", "[3,1] say [0,4] run ."),
        ("[1] says they run .", "[1] says [0,4] run ."),
        ("[1,3] near [2] say they run .", "[1,3] near [2] say [0,4] run ."),  # several tags: only they
        ("[1,3] are near [2] .", None),
        ("[1,2] run .", None),
        ("[1] runs .", None),
        ("THEY saw them on their way .", None),
        ("They saw them on their way .", "[0,4] saw them on their way ."),
        ("", None),
    ],
)
@pytest.mark.parametrize("question", ["why are [0,4] sad ?", "why are [4,0] sad ?"])
def test_plural_wrong_choice(question, choice, shifted):
    check(shift_plural, question, choice, right=False, shifted=shifted)


@pytest.mark.parametrize(
    "choice, shifted",
    [
        ("[0,1] run .", "They run ."),
        ("[1,3] run .", "They run ."),
        ("the dogs of [0,1] run .", "the dogs of they run ."),
        ("[1,0] run .", "[1,0] run ."),
        ("They run .", "They run ."),
        ("[0,1] say they run .", "They say they run ."),
        ("[0,1] saw [2] so they run .", "[0,1] saw [2] so they run ."),
        ("[0,1] saw [2] .", None),
        ("[0] runs .", None),
        ("", None),
    ],
)
def test_plural_right_choice(choice, shifted):
    check(shift_plural, "why are [0,1] sad ?", choice, right=True, shifted=shifted)


# --- both -----------------------------------------------------------------------------------------------------------


def test_eligible_and_changed_are_told_apart():
    choices = [words(text) for text in ("He ran .", "[1] ran .", "HE ran .", "[1] and [3] ran .")]
    result = shift_singular(words("why did [0] go ?"), choices, 0, OBJECTS)
    assert result.eligible == (True, True, True, False)
    assert result.changed == (False, True, False, False)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "question, choices, label, match",
    [
        ("why ?", ["a", "b"], 2, "label 2 is out of range: there are 2 choices"),
        ("why ?", ["a", "b"], -1, "label -1"),
        ("why ?", [], 0, "label 0"),
        ("why is [5] sad ?", ["a"], 0, r"tag \[5\] is out of range: there are 5 objects"),
        ("why is [-1] sad ?", ["a"], 0, r"tag \[-1\]"),
        ("why is [0] sad ?", ["a", "[0,9]"], 0, r"tag \[0, 9\]"),
    ],
)
def test_out_of_range(rule, question, choices, label, match):
    with pytest.raises(ValueError, match=match):
        rule(words(question), [words(choice) for choice in choices], label, OBJECTS)


PLAIN = ["the", "dog", "is", "happy", ".", "with", "'s", "and"]
PRONOUNS = ["he", "she", "He", "She", "HE", "they", "They", "them", "his", "her", "him", "Hers"]


def generate(seed: int, number: int):
    """Annotations of one to six objects; tags list distinct objects, not always in order."""
    draw = random.Random(seed)
    for _ in range(number):
        objects = [draw.choice(["person", "person", "person", "car"]) for _ in range(draw.randint(1, 6))]

        def text(most_tags: int, objects=objects) -> list[Word]:
            def tag() -> list[int]:
                return draw.sample(range(len(objects)), min(len(objects), draw.choice([1, 1, 1, 2, 2, 3])))

            found: list[Word] = draw.choices(PLAIN, k=draw.randint(0, 5)) + draw.choices(PRONOUNS, k=draw.choice([0, 0, 1, 2]))
            found += [tag() for _ in range(draw.randint(0, most_tags))]
            found += [list(word) for word in found if isinstance(word, list) and draw.random() < 0.2]
            draw.shuffle(found)
            return found

        choices = [text(2) for _ in range(4)]
        yield text(2), choices, draw.randrange(4), objects


@pytest.mark.parametrize("rule, least", [(shift_singular, 900), (shift_plural, 150)], ids=RULES)
def test_properties(rule, least):
    selected = changed = 0
    for given in generate(seed=7, number=6000):
        before = copy.deepcopy(given)
        result = rule(*given)
        assert given == before
        if result is None:
            continue
        question, choices, label, objects = given
        selected += 1
        changed += sum(result.changed)
        assert len(result.choices) == len(result.eligible) == len(result.changed) == len(choices)
        for i, (old, new) in enumerate(zip(choices, result.choices, strict=True)):
            assert len(new) == len(old) and result.changed[i] == (new != old)
            assert result.eligible[i] or new == old
            for was, now in zip(old, new, strict=True):
                assert was == now or isinstance(now, str) == (i == label)  # tags into a wrong choice, words into the right one
                assert isinstance(now, str) or all(0 <= index < len(objects) for index in now)
        tags = [word for text in (question, *choices, *result.choices) for word in text if isinstance(word, list)]
        assert len({id(tag) for tag in tags}) == len(tags)  # none shared
        again = rule(question, result.choices, label, objects)
        assert again.choices == result.choices and not any(again.changed)
    assert selected > least and changed > least  # the generator reaches what is tested


def test_singular_and_plural_select_different_questions():
    singular, plural = ([rule(*given) is not None for given in generate(seed=8, number=4000)] for rule in RULES.values())
    assert any(singular) and any(plural) and not any(a and b for a, b in zip(singular, plural, strict=True))


# --- SNLI-VE and VQA --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, shifted, replaced",
    [
        ("A man and a boy.", "A male and a male.", 2),
        ("Man, MAN, man, mAn", "Male, MALE, male, male", 4),
        ("The woman and the Girl", "The female and the Female", 2),
        ("Women, men, girls, boys", "Females, males, females, males", 4),
        ("People talk.", "Persons talk.", 1),
        ("A human woman-child manages a fireman", "A human woman-child manages a fireman", 0),
        ("The man's hat, MAN’S, the men's hats", "The male's hat, MALE’S, the males' hats", 3),
        ("He is with her.", "He is with her.", 0),  # no pronouns in Table 5
        ("How many men?", "How many males?", 1),  # and no question forms
        ("", "", 0),
    ],
)
def test_snli_ve_table(text, shifted, replaced):
    found, number = shift_words(split_words(text), SNLI_VE_RULES)
    assert split_words(" ".join(found)) == split_words(shifted) and number == replaced


@pytest.mark.parametrize(
    "text, shifted, replaced",
    [
        ("Is the man with a woman?", "Is the person with a person?", 2),
        ("Is he or SHE older?", "Is person or PERSON older?", 2),
        ("Are the men or the Women older?", "Are the persons or the Persons older?", 2),
        ("Is the boy with her?", "Is the boy with her?", 0),
        ("How many dogs are there?", "What is the number of dogs are there?", 1),
        ("how many men?", "what is the number of persons?", 2),
        ("HOW MANY DOGS?", "WHAT IS THE NUMBER OF DOGS?", 1),
        ("What is the man doing?", "What is the action of the person?", 2),
        ("What are they doing?", "What is the action of they?", 1),
        ("What is he doing", "What is the action of person", 2),
        ("What is the dog doing on the left?", "What is the dog doing on the left?", 0),
        ("What is doing?", "What is doing?", 0),  # nothing stands between
        ("What is this?", "What is this?", 0),
        ("Who is this man?", "Which person is this person?", 2),
        ("Whose dog is this?", "Whose dog is this?", 0),
        ("Is this who sits?", "Is this who sits?", 0),  # at the start only
        ("In all, how many?", "In all, how many?", 0),
        ("Who?", "Who?", 0),
        ("What color is it?", "Which color is it?", 1),
        ("What colors are they?", "Which colors are they?", 1),
        ("?", "?", 0),
        ("", "", 0),
    ],
)
def test_vqa_table(text, shifted, replaced):
    assert shift_words(split_words(text), VQA_RULES) == (split_words(shifted), replaced)


@pytest.mark.parametrize("rules", [SNLI_VE_RULES, VQA_RULES], ids=["snli_ve", "vqa"])
def test_tables_are_lower_case_and_do_not_feed_each_other(rules):
    written = [*rules.words.values(), *(rule.new for rule in rules.questions)]
    texts = [*written, *rules.words, *(f"{rule.opening} {rule.closing}" for rule in rules.questions)]
    assert all(text == text.lower() for text in texts)
    assert not {word for text in written for word in text.split()} & set(rules.words)


def test_shift_words_keeps_tags_and_its_arguments():
    given = words("who is the man near [0,2] ?")
    before = copy.deepcopy(given)
    found, number = shift_words(given, VQA_RULES)
    assert (found, number) == (words("which person is the person near [0,2] ?"), 2)
    assert given == before and found[6] is not given[5]
