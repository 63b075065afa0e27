"""VILLA's adversarial training (Gan et al., 2020, Algorithm 1) of a student over regions: one clean pass, then K perturbed ones.

Perturbations of word embeddings and of region features start at zero and climb the loss between the passes, each by a step of
fixed length along its gradient. What is descended on is the mean of the passes' losses, each with the divergence from the clean
prediction; the objective's other terms, ADVL's too, belong to every pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vldistill.data.batch import Batch, RegionBatch
from vldistill.errors import needed
from vldistill.objectives.base import Terms
from vldistill.objectives.soft_label import prediction_divergence
from vldistill.training.sharding import average_gradients, is_sharded

_SMALLEST_NORM = 1e-8


@dataclass(frozen=True)
class AdversarialStep:
    """The passes of a batch, as `vldistill.training.loop.fit` calls them. steps: K. lr: length of a step. divergence: its weight.
    text, image: what is perturbed. target: the task's, see `TaskSpec`."""

    steps: int
    lr: float
    divergence: float
    text: bool
    image: bool
    target: str

    def __call__(self, learner: nn.Module, prepared: Batch, taught: object, accelerator: Accelerator) -> tuple[Terms, Tensor]:
        inner = accelerator.unwrap_model(learner)
        student, objective = inner.student, inner.objective
        deltas = self._zeros(student, prepared)
        sums: dict[str, Tensor] = {}
        # Each pass goes backward by itself, so the processes exchange their gradients once, at the end.
        with accelerator.no_sync(learner):
            with accelerator.autocast():
                clean = student(prepared, objective.student_capture)
            for step in range(self.steps):
                with accelerator.autocast():
                    output = student(prepared, objective.student_capture, **deltas)
                    terms = objective(output, taught, prepared)
                    terms["adversarial"] = self.divergence * prediction_divergence(clean, output, self.target)
                terms = {name: value / self.steps for name, value in terms.items()}
                last = step == self.steps - 1
                accelerator.backward(torch.stack(list(terms.values())).sum(), retain_graph=not last)
                for name, value in terms.items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
                if not last:
                    deltas = {name: self._climbed(delta) for name, delta in deltas.items()}
        if accelerator.sync_gradients and not is_sharded(student):
            average_gradients(inner, accelerator)
        return sums, torch.stack(list(sums.values())).sum()

    def _zeros(self, student: Any, batch: Batch) -> dict[str, Tensor]:
        shapes = {"text_delta": (*batch.text.ids.shape, student.width)} if self.text else {}
        if self.image:
            regions = cast(RegionBatch, batch.images[0]).features
            shapes["image_delta"] = (len(batch.text.ids), *regions.shape[1:])
        return {name: torch.zeros(shape, device=batch.text.ids.device, requires_grad=True) for name, shape in shapes.items()}

    def _climbed(self, delta: Tensor) -> Tensor:
        """One step along the gradient, divided by its norm over a whole sample."""
        gradient = needed(delta.grad, "the gradient").float()
        norms = gradient.flatten(1).norm(dim=1).clamp(min=_SMALLEST_NORM).view(-1, 1, 1)
        return (delta.detach() + self.lr * gradient / norms).requires_grad_()
