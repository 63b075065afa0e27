"""Step 1 of ADVL's two-step fine-tuning (section 3.3): image-text matching on the task's own data, with distillation beside it.

    L = L_ITM + mean_i w_i (E L_v,i + F (L_t,i + L_t',i))                                                  (Eq. 6 and 7)

Each matched pair stands beside one with another text and one with another image. Teachers are heard on matched pairs only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch
from vldistill.models.base.outputs import Capture, Output, PairStates, TeacherOutput
from vldistill.objectives.advl import FLOOR, Advl, confidence, take_reference
from vldistill.objectives.base import Objective, Terms
from vldistill.objectives.contrastive import itm_info_nce, mismatched
from vldistill.objectives.feature import masked_mean

SCORES = {"probability": torch.sigmoid, "logit": lambda logits: logits}
"""What of the head's logits InfoNCE compares."""
ROWS = 3
"""A pair's rows: matched, another text, another image."""


class AdvlMatchingHead(nn.Module):
    """[mean of visual tokens; CLS] of the last layer to one logit: Linear, GELU, Linear."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, view: PairStates, layer: int) -> Tensor:
        """[S]."""
        text, image = view.hidden[layer]
        joint = torch.cat([masked_mean(image, view.visual), text[:, 0].float()], dim=-1)
        return self.layers(joint).squeeze(-1)


class AdvlMatching(Objective):
    """advl: step 2's objective, whose maps and scalars are shared; its C_avg is not, since confidence among three pairings is a
    scale of its own. depth: the student's layers. score: "probability" (the paper's) or "logit". temperature: tau of Eq. 6."""

    reference: Tensor

    needs_teacher = True
    uses_all_parameters = False  # the task's head waits for step 2
    judged = ("count", "right", "sure")

    def __init__(self, advl: Advl, *, width: int, depth: int, score: str = "probability", temperature: float = 1.0):
        super().__init__()
        self.advl, self.head, self.depth = advl, AdvlMatchingHead(width), depth
        self.score, self.temperature = score, temperature
        self.register_buffer("reference", torch.tensor(FLOOR))
        self.student_capture = Capture(hidden=tuple(sorted({*advl.distances.capture.hidden, depth})))
        self.teacher_capture = Capture()

    def prepare_batch(self, batch: Batch) -> Batch:
        """B pairs to 3B: the pairs, their images with other texts, their texts with other images; drawn by torch's generator.

        A pair for which the batch holds no other text, or no other image, keeps its own there (see `forward`).
        """
        texts, images = others(batch)
        own = torch.arange(len(batch))
        text_rows = torch.cat([own, torch.where(texts < 0, own, texts), own]).to(batch.text.ids.device)
        image_rows = torch.cat([own, own, torch.where(images < 0, own, images)]).to(batch.text.ids.device)
        sources = [
            replace(batch.sources[image], sentences=batch.sources[text].sentences)
            for image, text in zip(image_rows.tolist(), text_rows.tolist(), strict=True)
        ]
        return Batch(
            [batch.ids[row] for row in text_rows.tolist()],
            batch.text[text_rows],
            [image[image_rows] for image in batch.images],
            None,
            sources,
        )

    def ranked(self, student: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, 3] scores of a prepared batch over the temperature, the matched pair's first, and [B] bool: whether a pair has a
        true mismatch of both kinds."""
        logits = self.head(student.views[0], self.depth).view(ROWS, -1).T
        count = len(batch) // ROWS
        contents = [(source.images, source.sentences) for source in batch.sources]
        valid = [contents[row] != contents[row + count] and contents[row] != contents[row + 2 * count] for row in range(count)]
        scores = SCORES[self.score](logits)
        return scores / self.temperature, torch.tensor(valid, device=logits.device)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Terms:
        """`student` and `batch` have the rows of `prepare_batch`, `teacher` those of the pairs it was made from."""
        scores, valid = self.ranked(student, batch)
        matching = itm_info_nce(scores[valid]) if valid.any() else 0.0 * scores.sum()
        count = len(batch) // ROWS
        pairs = replace(
            batch,
            ids=batch.ids[:count],
            text=batch.text[torch.arange(count, device=scores.device)],
            sources=batch.sources[:count],
            images=[],
        )
        distilled, self.logs = self.advl.distilled(_first(student, count), teacher, pairs, scores, self.reference)
        return {"itm": matching} | distilled

    def eval_sums(self, student: Output, batch: Batch) -> dict[str, Tensor]:
        """How often the matched pair ranks above both mismatches, and how sure the student then is."""
        scores, valid = self.ranked(student, batch)
        right = valid & (scores.argmax(dim=-1) == 0)
        return {"count": valid.sum(), "right": right.sum(), "sure": (confidence(scores) * right).sum()}

    def eval_metrics(self, sums: dict[str, float]) -> dict[str, Any]:
        """accuracy in [0, 1] and count of the triples, and `confidence_when_right`."""
        count, right = sums["count"], sums["right"]
        metrics: dict[str, Any] = {"accuracy": right / count if count else 0.0, "count": int(count)}
        return metrics | ({"confidence_when_right": sums["sure"] / right} if right else {})

    def after_validation(self, metrics: dict[str, Any]) -> None:
        take_reference(self.reference, metrics)

    def warnings(self) -> list[str]:
        return self.advl.warnings()


def others(batch: Batch) -> tuple[Tensor, Tensor]:
    """For each pair a row with another text and a row with another image, -1 where the batch has none: neither shares the
    pair's text or its image, so that no mismatch is a match of somebody else's."""
    texts = _ids([source.sentences for source in batch.sources])
    images = _ids([source.images for source in batch.sources])
    same = (texts[:, None] == texts) | (images[:, None] == images)
    return mismatched(same), mismatched(same)


def _ids(values: list) -> Tensor:
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([numbers[value] for value in values])


def _first(output: Output, count: int) -> Output:
    """The first `count` sequences of an output."""
    views = [
        PairStates(
            view.text_mask[:count],
            view.image_mask[:count],
            view.visual[:count],
            {},
            {layer: (text[:count], image[:count]) for layer, (text, image) in view.hidden.items()},
        )
        for view in output.views
    ]
    return Output(output.logits[:count], views)
