"""The answer vocabulary of a VQA data set: which answers a classifier can give, and the soft targets over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vldistill.errors import InputError
from vldistill.metrics.scores import normalise_answer, soft_target_score

ANSWERS_FILE = "answers.json"


def majority_answer(answers: Sequence[str]) -> str:
    """The most frequent normalised answer; among equals the one given first. Raises ValueError without answers."""
    if not answers:
        raise ValueError("a majority needs at least one answer")
    return Counter(map(normalise_answer, answers)).most_common(1)[0][0]


@dataclass(frozen=True)
class AnswerVocabulary:
    """Answers in class order. `index` maps a normalised answer to its class; `min_count` is what it was built with."""

    names: list[str]
    min_count: int = 1
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {name: i for i, name in enumerate(self.names)})

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def build(cls, majority: Iterable[str], min_count: int = 9) -> AnswerVocabulary:
        """From each question's majority answer, train before val: normalised, those that occur at least `min_count`
        times, in the order of their first occurrence (as ViLT and METER do: 3,129 for VQA v2 at 9)."""
        counts = Counter(map(normalise_answer, majority))
        return cls([name for name, count in counts.items() if count >= min_count], min_count)

    def knows(self, answers: Iterable[str]) -> bool:
        """Whether one of a question's answers is a class."""
        return any(normalise_answer(answer) in self.index for answer in answers)

    def soft_target(self, answers: Iterable[str]) -> dict[int, float]:
        """Class -> score in (0, 1] of one question, from how many annotators gave it; empty where none is known."""
        counts = Counter(self.index.get(normalise_answer(answer), -1) for answer in answers)
        return {i: soft_target_score(count) for i, count in counts.items() if i >= 0}

    def to_json(self) -> dict[str, Any]:
        """What `answers.json` holds."""
        return {"min_count": self.min_count, "answers": self.names}

    @classmethod
    def from_json(cls, value: Any, where: str = ANSWERS_FILE) -> AnswerVocabulary:
        """The reverse of `to_json`. Raises InputError naming `where` if the value is no vocabulary."""
        names = value.get("answers") if isinstance(value, dict) else None
        min_count = value.get("min_count", 1) if isinstance(value, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or type(min_count) is not int:
            raise InputError(
                "is not an answer vocabulary", where=where, hint='expected {"min_count": 9, "answers": ["yes", "no", ...]}'
            )
        if len(set(names)) != len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"answer {twice!r} appears twice", where=where, hint="remove one")
        return cls(names, min_count)
