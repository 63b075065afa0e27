"""Fusion-encoder teachers: frozen, in evaluation mode whatever the student does, and run live, since their attention maps are
too large to store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from vldistill.data.batch import Batch
from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import Checkpoint, ModelSpec, fusion_encoder_weights, load_strict, read_checkpoint
from vldistill.models.base.family import family_of
from vldistill.models.base.fusion import Fusion
from vldistill.models.base.heads import HEADS, head_weights
from vldistill.models.base.outputs import Capture, Output


@dataclass
class FusionTeacher:
    """A teacher kept outside the student, so that it is neither trained nor saved with it.

    order: [C] index of each of the student's labels among the teacher's, or None where the orders agree. source: as it was named.
    """

    model: Fusion
    spec: ModelSpec
    tokenizer: WordTokenizer
    order: torch.Tensor | None
    source: str

    def describe(self) -> str:
        frozen = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{self.spec.kind} {self.source}, {frozen:,} parameters frozen"

    def to(self, device: torch.device) -> FusionTeacher:
        self.model.to(device)
        self.order = None if self.order is None else self.order.to(device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch, capture: Capture) -> Output:
        """The teacher's output, its logits in the order of the student's labels."""
        output = self.model(batch, capture)
        if self.order is None:
            return output
        return Output(output.logits[:, self.order], output.views)


def build_fusion_teacher(
    kind: str, source: str, *, labels: list[str], images: int, pretraining: Collection[str] = ()
) -> FusionTeacher:
    """Reads a fusion model, fine-tuned for `labels`, or with heads for tasks of pre-training. Raises InputError where it lacks a
    label or a head, or takes another number of images."""
    checkpoint = read_checkpoint(source)
    spec, where = checkpoint.spec, str(checkpoint.folder)
    if spec.kind != kind:
        raise InputError(f"is a {spec.kind} model, a {kind} teacher was expected", where=where, hint="name a fusion run")
    if spec.images != images:
        raise InputError(
            f"takes {spec.images} image(s) a record, the data has {images}",
            where=where,
            hint="fine-tune a teacher on this data first: vldistill finetune",
        )
    missing = [name for name in labels if name not in spec.labels]
    if missing:
        raise InputError(
            f"the teacher does not know {len(missing)} of the data's labels: {', '.join(missing[:5])}",
            where=where,
            hint="fine-tune a teacher on this data first: vldistill finetune",
        )
    order = None if labels in ([], spec.labels) else torch.tensor([spec.labels.index(name) for name in labels])
    classes = spec.classes if labels else 0
    model = family_of(kind).model(spec.encoder, images=images, classes=classes, pretraining=pretraining)
    (name,) = model.towers
    encoder = fusion_encoder_weights(checkpoint, name)
    weights = {f"{name}.{own}": value for own, value in encoder.items()}
    if labels:
        weights |= {name: value for name, value in checkpoint.weights.items() if name.startswith("classifier.")}
    weights |= _heads(checkpoint, encoder[getattr(model, name).words], pretraining, where)
    load_strict(model, weights, where)
    return FusionTeacher(model.eval().requires_grad_(False), spec, load_tokenizer(checkpoint.folder), order, source)


def _heads(checkpoint: Checkpoint, words: torch.Tensor, pretraining: Collection[str], where: str) -> dict[str, torch.Tensor]:
    pretrained = head_weights(checkpoint.weights, words)
    wanted = {task: f"{HEADS[task]}." for task in pretraining}
    missing = [task for task, head in wanted.items() if not any(name.startswith(head) for name in pretrained)]
    if missing:
        heads = ", ".join(HEADS[task] for task in missing)
        raise InputError(
            f"has no head for {', '.join(missing)} ({heads})",
            where=where,
            hint="name a run of `vldistill pretrain`, or ViLT's official checkpoint (the hub's has no itm_score)",
        )
    return {name: value for name, value in pretrained.items() if name.startswith(tuple(wanted.values()))}
