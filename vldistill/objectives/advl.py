"""ADVL (section 3): frozen unimodal teachers beside a task loss, modality by modality, with its learned scalars and its
weighting by confidence.

    L = L_task + mean_i w_i (E L_v,i + F (L_t,i + L_t',i))                                     (Eq. 3 and 5, w applied once)

L_v compares pooled visual tokens, L_t the CLS-like token, L_t' the most important words; w falls with the student's
confidence: the surer the student, the less its teachers interfere (section 3.2.1). A linear map takes the student's features
to the teacher's space; mapping the teacher instead would let its features collapse. Where a record has choices, all of its
sequences are distilled and averaged.

The scalars are the temperature T and the weights E (vision) and F (text). A learned weight on a loss that is never negative
can only shrink, since nothing pulls back, and unconstrained it would go on below zero and reward distance. So all three are
positive through softplus, and there are two ways to keep them from fading: `fixed`, or `uncertainty`, which adds minus the
logarithms of the weights that the distances really have (the log-scales of the Laplace distributions whose likelihood the L1
terms are): E / T and F / T where confidence divides by T, else E and F.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import Batch
from vldistill.errors import needed
from vldistill.models.base.outputs import Capture, Output, PairStates, TeacherOutput
from vldistill.objectives.base import Objective, Terms
from vldistill.objectives.feature import masked_mean, unit_l1, word_features

FLOOR = 0.5
"""Least reference confidence: a student that is right by luck early on shall not count as sure (section 3.2.1)."""


def confidence(logits: Tensor) -> Tensor:
    """C: the largest softmax probability over the classes a question offers, without a gradient, fp32: a student that could
    raise it to lower its loss would become overconfident. logits: [B, C]. Returns [B] in (0, 1]."""
    return logits.detach().float().softmax(dim=-1).amax(dim=-1)


def distillation_weight(confidence: Tensor, reference: Tensor | float, temperature: Tensor | float) -> Tensor:
    """w = sigmoid(max(C_avg, 0.5) / C - 1) / T (Eq. 2). confidence: [B]; reference: C_avg, the mean confidence of right answers
    on validation; temperature: T > 0. Returns [B]: 1 / (2T) where the student is as sure as usual, more where it is less sure."""
    floor = reference.clamp(min=FLOOR) if isinstance(reference, Tensor) else max(reference, FLOOR)
    return (floor / confidence - 1).sigmoid() / temperature


MODES = {"learned": True, "fixed": False, "uncertainty": True}
"""Whether T, E and F learn."""
FADED = 0.05
"""Share of its start below which a weight over the temperature counts as gone."""


class Scalars(nn.Module):
    """temperature, vision, text: starts of T, E and F, all > 0. mode: a key of MODES."""

    def __init__(self, *, temperature: float = 1.0, vision: float = 1.0, text: float = 1.0, mode: str = "learned"):
        super().__init__()
        self.mode, self._starts = mode, {"T": temperature, "E": vision, "F": text}
        # softplus(x) = start
        raw = torch.tensor([temperature, vision, text], dtype=torch.float64).expm1().log().float()
        self.raw = nn.Parameter(raw, requires_grad=MODES[mode])

    def values(self) -> dict[str, Tensor]:
        """T, E and F."""
        return dict(zip("TEF", F.softplus(self.raw), strict=True))

    def regulariser(self, used: str, *, over_temperature: bool) -> Terms:
        """The term that keeps the weights `used` ("E", "F" or "EF") from fading; empty unless the mode is "uncertainty".
        over_temperature: whether the loss has them divided by T, which would otherwise grow with them without end."""
        if self.mode != "uncertainty" or not used:
            return {}
        values = self.values()
        scale = values["T"].log() if over_temperature else 0.0
        return {"uncertainty": -torch.stack([values[name].log() - scale for name in used]).sum()}

    def faded(self, used: str) -> list[str]:
        """What to tell a user: each weight over T that has fallen under FADED of its start."""
        now, warnings = {name: float(value.detach()) for name, value in self.values().items()}, []
        for name in used:
            share = now[name] / now["T"] / (self._starts[name] / self._starts["T"])
            if share < FADED:
                warnings.append(
                    f"{name}/T has fallen to {100 * share:.1f} % of its start: the student hardly hears this teacher any "
                    "more (objective.weights=fixed keeps it)"
                )
        return warnings


@dataclass(frozen=True)
class Pathway:
    """One kind of feature to distil. layer: the student's, from 1. width: of the teacher's feature."""

    layer: int
    width: int


def make_map(kind: str, student: int, teacher: int) -> nn.Module:
    """From the student's width to the teacher's: "identity" (equal widths only), or linear ("learned", "anchored")."""
    if kind == "identity" and student != teacher:
        raise ValueError(f"map identity needs equal widths, the student has {student} and the teacher {teacher}")
    makers = {"identity": nn.Identity, "learned": nn.Linear, "anchored": nn.Linear}
    return makers[kind](student, teacher)


class Distances(nn.Module):
    """L_v, L_t and L_t' of each record, with the maps they need. width: of the student. A pathway that is None is off."""

    def __init__(self, *, width: int, vision: Pathway | None, text: Pathway | None, words: Pathway | None, map: str):
        super().__init__()
        self.pathways = {name: path for name, path in (("vision", vision), ("text", text), ("words", words)) if path}
        self.maps = nn.ModuleDict({name: make_map(map, width, path.width) for name, path in self.pathways.items()})

    @property
    def capture(self) -> Capture:
        return Capture(hidden=tuple(sorted({path.layer for path in self.pathways.values()})))

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """[B] each, by name. Records with two images sum their distances, as DiDE sums their attention terms."""
        distances: dict[str, Tensor] = {}
        for own, other, valid, name in self.pairs(student, teacher, batch):
            distance = unit_l1(self.maps[name](own), other)
            if valid is not None:  # [S, m], summed over the words of a sequence as in Eq. 4
                distance = distance.masked_fill(~valid, 0.0).sum(dim=-1)
            distance = distance.view(len(batch), -1).mean(dim=-1)
            distances[name] = distances[name] + distance if name in distances else distance
        return distances

    def pairs(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor | None, str]]:
        """(student's features, teacher's, valid or None, name) of each pathway and image, before any map: [S, D] or [S, m, D]."""
        for place, view in enumerate(student.views):
            if "vision" in self.pathways:
                other = needed(teacher.vision, "the image feature")[place].repeat_interleave(batch.choices, 0)
                yield masked_mean(self._states(view, "vision")[1], view.visual), other, None, "vision"
            if place:
                continue  # the text is the same beside every image
            if "text" in self.pathways:
                yield self._states(view, "text")[0][:, 0].float(), needed(teacher.text, "the text feature"), None, "text"
            if "words" in self.pathways:
                chosen, others = needed(teacher.word_index, "the selection"), needed(teacher.words, "the words' features")
                own, valid = word_features(self._states(view, "words")[0], needed(batch.text.words, "the words' places"), chosen)
                # A word that the teacher cut off, or has no token for, has a zero vector, which is no feature.
                yield own, others, valid & (others != 0).any(dim=-1), "words"

    def _states(self, view: PairStates, name: str) -> tuple[Tensor, Tensor]:
        return view.hidden[self.pathways[name].layer]


class Advl(Objective):
    """The task's objective with distillation beside it (step 2, or the only one). confident: weight by Eq. 2, else w = 1."""

    reference: Tensor

    def __init__(self, task: Objective, distances: Distances, scalars: Scalars, *, confident: bool):
        super().__init__()
        self.task, self.distances, self.scalars, self.confident = task, distances, scalars, confident
        kept = distances.capture
        self.student_capture = Capture(task.student_capture.qk, tuple(sorted({*task.student_capture.hidden, *kept.hidden})))
        self.teacher_capture = task.teacher_capture
        self.needs_teacher = bool(distances.pathways) or task.needs_teacher
        self.uses_all_parameters = task.uses_all_parameters
        self.register_buffer("reference", torch.tensor(FLOOR))

    @property
    def used(self) -> str:
        """The weights in use, of "EF"."""
        return "E" * ("vision" in self.distances.pathways) + "F" * bool({"text", "words"} & set(self.distances.pathways))

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Terms:
        terms = self.task(student, teacher.fusion, batch)
        distilled, self.logs = self.distilled(student, teacher, batch, student.logits, self.reference)
        return terms | distilled

    def distilled(
        self, student: Output, teacher: TeacherOutput, batch: Batch, logits: Tensor, reference: Tensor
    ) -> tuple[Terms, dict[str, Tensor]]:
        """The weighted distillation terms, and what is logged beside them. logits: [B, C], from which the confidence is read;
        reference: C_avg."""
        values = self.scalars.values()
        sure = confidence(logits)
        weight = distillation_weight(sure, reference, values["T"]) if self.confident else torch.ones_like(sure)
        factors = {"vision": values["E"], "text": values["F"], "words": values["F"]}
        distances = self.distances(student, teacher, batch)
        logs = {f"distance/{name}": value.detach().mean() for name, value in distances.items()}
        logs |= {
            "w": weight.detach().mean(),
            "C": sure.mean(),
            "C_avg": reference.clone(),
            **{name: value.detach() for name, value in values.items()},
        }
        terms = {name: (weight * factors[name] * value).mean() for name, value in distances.items()}
        return terms | self.scalars.regulariser(self.used, over_temperature=self.confident), logs

    def after_validation(self, metrics: dict[str, Any]) -> None:
        take_reference(self.reference, metrics)

    def warnings(self) -> list[str]:
        """What a user should know of the learned weights."""
        return self.scalars.faded(self.used)


def take_reference(reference: Tensor, metrics: dict[str, Any]) -> None:
    """Takes over C_avg in place, the mean confidence of right answers, where a validation had one."""
    if "confidence_when_right" in metrics:
        reference.fill_(metrics["confidence_when_right"])
