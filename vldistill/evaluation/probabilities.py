"""Probabilities of all labels for all records of a split, of one model or averaged over several (ADVL, appendix A.4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.training.inference import Answer, Keep, chosen

_BLOCK = 4096
"""Records that are averaged at a time."""


class Probabilities:
    """The sum over models, [N, C] fp32 in memory, whatever the number of models, and never on disk: 2.7 GB for VQA's validation
    questions (214,354 x 3,129 answers) and 5.6 GB for its test questions; a few MB for every other task.

    Records are found by their ids, labels by their names, so that neither the order of a model's batches nor that of its head
    matters.
    """

    def __init__(self, ids: Iterable[str], labels: Sequence[str]):
        self.labels = list(labels)
        self._rows = {name: row for row, name in enumerate(ids)}
        self._sums = torch.zeros(len(self._rows), len(self.labels))
        self._models = 0

    @staticmethod
    def size(records: int, labels: int) -> int:
        """Bytes that so many records and labels take."""
        return 4 * records * labels

    def member(self, labels: Sequence[str]) -> Keep:
        """What one more model is to tell of its batches. labels: of its head, the same names in an order of its own."""
        places = {name: place for place, name in enumerate(labels)}
        order = torch.tensor([places[name] for name in self.labels])
        self._models += 1

        def keep(ids: list[str], sure: Tensor) -> None:
            rows = torch.tensor([self._rows[name] for name in ids])
            self._sums[rows] += sure.cpu()[:, order]

        return keep

    def of(self, ids: Sequence[str]) -> Tensor:
        """The mean over the models, [len(ids), C]. Every model must have told of these records."""
        return self._sums[torch.tensor([self._rows[name] for name in ids])] / self._models

    def answers(self, ids: Sequence[str], *, tags: bool = False) -> list[Answer]:
        """The answers of the mean."""
        answers: list[Answer] = []
        for start in range(0, len(ids), _BLOCK):
            some = list(ids[start : start + _BLOCK])
            answers += chosen(some, self.of(some), self.labels, tags=tags)
        return answers


def check_members(specs: dict[str, ModelSpec]) -> None:
    """Raises InputError where models cannot be averaged, since they answer another task or by other labels."""
    (first, wanted), *others = specs.items()
    for source, spec in others:
        if {spec.task, wanted.task} - {""} == {spec.task, wanted.task} and spec.task != wanted.task:
            raise InputError(
                f"answers {spec.task}, {first} answers {wanted.task}: they cannot be averaged",
                where=source,
                hint="name runs of one task",
            )
        unknown = sorted(set(spec.labels) ^ set(wanted.labels))
        if unknown:
            raise InputError(
                f"and {first} have other labels: only one of them knows {_some(unknown)}",
                where=source,
                hint="name runs that were trained on the same labels",
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
