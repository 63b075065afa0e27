"""Question and right answer as one statement, the text of an image-text matching pair (ADVL, appendix A.1.3).

VCR goes by the paper's heuristic rules (Fig. 4); VQA by plain concatenation. SNLI-VE's hypotheses are statements already,
of which a caller takes the entailed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vldistill.data.records import Word, copy_words

NO_TEMPLATE = "none"
"""The template's name where no rule made the statement: it is the question followed by the answer."""

Words = list[Word]


@dataclass(frozen=True)
class Statement:
    """words: the statement. template: the name in Fig. 4 ("1a" to "8a") of the rule that made it, else `NO_TEMPLATE`."""

    words: list[Word]
    template: str


def vcr_statement(question: Sequence[Word], answer: Sequence[Word]) -> Statement:
    """The statement that Fig. 4 makes of a VCR question, with its question mark, and the right answer.

    All words come out in lower case, as the rules read them; tags stay lists of object indices. The arguments are not
    changed, nor are their tags shared.

    >>> vcr_statement(["Why", "is", [0], "sad", "?"], ["She", "lost", "."])
    Statement(words=[[0], 'is', 'sad', 'because', 'she', 'lost', '.'], template='3a')
    """
    asked, answered = _lower(question), _lower(answer)
    # The rules cut off the last word; only a question mark is meant.
    body = asked[:-1] if asked[-1:] == ["?"] else asked
    for rule in _RULES:
        if rule.fits(asked):
            return Statement(rule.form(body, answered), rule.template)
    return Statement(asked + answered, NO_TEMPLATE)


def vqa_statement(question: Sequence[Word], answer: Sequence[Word]) -> Statement:
    """The question, with its question mark, followed by the answer, in their own case."""
    return Statement(copy_words(question) + copy_words(answer), NO_TEMPLATE)


def _lower(words: Sequence[Word]) -> Words:
    return [word.lower() if isinstance(word, str) else word for word in copy_words(words)]


Form = Callable[[Words, Words], Words]


def _answer(question: Words, answer: Words) -> Words:
    return answer


def _clause_and_answer(marker: str) -> Form:
    """The question from `marker` on, then the answer."""
    return lambda question, answer: question[question.index(marker) :] + answer


def _answer_and_clause(marker: str) -> Form:
    """The answer, then the question from `marker` on."""
    return lambda question, answer: answer + question[question.index(marker) :]


def _because(question: Words, answer: Words) -> Words:
    """why is X ... -> X is ... because ...; X is the third word alone, which is the whole subject where it is a tag."""
    return question[2:3] + question[1:2] + question[3:] + ["because"] + answer


def _yes_or_no(question: Words, answer: Words) -> Words:
    """is X ... -> X is (not) ..., then the answer without its first word, as printed even where that is not yes or no."""
    negation = ["not"] if "no" in answer and "yes" not in answer else []
    return question[1:2] + question[:1] + negation + question[2:] + answer[1:]


@dataclass(frozen=True)
class _Rule:
    """A row of Fig. 4. It fits a question whose first word is one of `first`, whose second is one of `second`, that has
    the word `has` (one of them) anywhere, and that goes on with exactly `then` after its first word; "" asks for nothing.
    Alternatives, and the words of `then`, are separated by spaces."""

    template: str
    first: str
    form: Form
    second: str = ""
    has: str = ""
    then: str = ""

    def fits(self, question: Words) -> bool:
        then = self.then.split()
        # Never `word in set`: a word may be a tag, which has no hash.
        return (
            any(word in self.first.split() for word in question[:1])
            and (not self.second or any(word in self.second.split() for word in question[1:2]))
            and (not self.has or any(word in question for word in self.has.split()))
            and (not then or question[1 : 1 + len(then)] == then)
        )


# The stored text of the paper garbles 1c, "statement = question.index('after'):-1] + answer"; it is read as 1b with the word
# after. The lists of first and second words are taken as printed, so that "what does" has no rule; where the stored line
# breaks off before its colon, no word is guessed.
_RULES = (
    _Rule("1a", "what", _answer, then="will happen next ?"),
    _Rule("1b", "what", _clause_and_answer("if"), has="if"),
    _Rule("1c", "what", _clause_and_answer("after"), has="after"),
    _Rule("1d", "what", _answer, second="is are was has do did"),
    _Rule("1e", "what", _answer, second="would"),
    _Rule("1f", "what", _answer, second="will might"),
    _Rule("2a", "whose", _answer_and_clause("is"), has="is"),
    _Rule("2a", "whose", _answer_and_clause("are"), has="are"),
    _Rule("3a", "why", _because, second="does do are is did would"),
    _Rule("4a", "how", _clause_and_answer("if"), has="if"),
    _Rule("4b", "how", _answer, has="feel feeling"),
    _Rule("4c", "how", _answer, second="do will is"),
    _Rule("5a", "where", _answer),
    _Rule("6a", "is can does do was are did will", _yes_or_no),
    _Rule("7a", "who", _answer),
    _Rule("8a", "which", _answer),
)
