"""Image-text retrieval: a dual encoder by contrast, with or without a fusion teacher's attention, and a fusion encoder by ranking
texts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vldistill.data.batch import Batch
from vldistill.errors import needed
from vldistill.models.base.outputs import NOTHING, Capture, Output
from vldistill.objectives.attention import AttentionMatch, mapped_layers
from vldistill.objectives.base import Objective, Terms, label_cross_entropy
from vldistill.objectives.contrastive import TEMPERATURE, CrossModalContrast, pair_keys


class DualRetrieval(Objective):
    """CMC among the batches of all processes, and attention distillation on its matched pairs (DiDE, section 3.3.2: the objective
    of pre-training's CMC, without labels). depth: layers of student and teacher. attention, layers, kl: see `DiDE`."""

    uses_all_parameters = False  # the MLP that fuses both towers is not asked

    def __init__(
        self,
        *,
        depth: int,
        attention: str = "none",
        layers: str = "last",
        kl: str = "forward",
        attention_weight: float = 1.0,
        temperature: float = TEMPERATURE,
    ):
        super().__init__()
        self.contrast, self.attention_weight = CrossModalContrast(temperature), attention_weight
        self.match = None if attention == "none" else AttentionMatch(attention, mapped_layers(layers, depth), kl)
        self.needs_teacher = self.match is not None
        self.student_capture = self.teacher_capture = Capture(qk=self.match.layers) if self.match else NOTHING

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Terms:
        keys = pair_keys(batch.sources, batch.text.ids.device)
        vectors = needed(student.vectors, "a dual encoder's vectors")
        terms = {"cmc": self.contrast(vectors.text, vectors.images[0], keys)}
        self.logs = {"negatives": self.contrast.negatives, "temperature": self.contrast.temperature.detach()}
        if self.match is not None:
            terms["attention"] = self.attention_weight * self.match(student.views, needed(teacher, "the teacher").views)
        return terms


class TextRanking(Objective):
    """A fusion encoder's retrieval (ViLT, section 4.4): of an image's texts, the first is its own; cross-entropy over all of
    them."""

    judged = ("right", "count")

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Terms:
        """student.logits: [B, 1 + K], a score for each text."""
        return {"rank": label_cross_entropy(student.logits, needed(batch.target, "the own text"))}

    def eval_sums(self, student: Output, batch: Batch) -> dict[str, Tensor]:
        """How often the image's own text scores above all others; a tie is an error."""
        scores = student.logits.float()
        right = (scores[:, 1:] < scores[:, :1]).all(dim=1)
        return {"right": right.sum(), "count": right.new_full((), len(right), dtype=scores.dtype)}

    def eval_metrics(self, sums: dict[str, float]) -> dict[str, Any]:
        return {"accuracy": sums["right"] / max(sums["count"], 1), "count": int(sums["count"])}
