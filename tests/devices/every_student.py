"""Two optimiser steps and a validation of every kind of student with every method, on the virtual device.

A program: `every_student.py fp32/vilt/labels bf16/dual_encoder/dide/1` trains all cases of the first pair in fp32 and one of the
second in bf16, and prints a line of JSON for each. It finds its helpers below `tests` and `tests/models` by PYTHONPATH."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import test_fusion_baselines as baselines
import test_region_students as over_regions
import test_vlbert_end_to_end as end_to_end
import tiny_oscar
import torch
import virtual_device
from accelerate.state import AcceleratorState, PartialState

from vldistill.data.batch import CMC, ITM, MLM, RANK, Batch, LetterboxBatch, RecordSource, RegionBatch, TextBatch
from vldistill.data.transforms import patchify
from vldistill.data.visual import stack_patches
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.family import family_of
from vldistill.models.build import new_student
from vldistill.models.clip_dual.model import ClipConfig
from vldistill.models.clip_vil.model import ClipVilConfig
from vldistill.models.encoders.model import TextConfig, VisionConfig
from vldistill.models.meter.parts import MeterConfig
from vldistill.models.vilt.model import EncoderConfig
from vldistill.objectives.advl import Advl, Distances, Pathway, Scalars
from vldistill.objectives.base import HardLabels
from vldistill.objectives.dide import DiDE
from vldistill.objectives.matching import AdvlMatching
from vldistill.objectives.pretraining import Pretraining
from vldistill.objectives.retrieval import DualRetrieval, TextRanking
from vldistill.recipe.schema.students import STUDENTS
from vldistill.runtime import Precision, make_accelerator
from vldistill.teachers.unimodal import UnimodalTeachers
from vldistill.training.adversarial import AdversarialStep
from vldistill.training.inference import answer
from vldistill.training.loop import Learner, forward_backward
from vldistill.training.optim import linear_schedule, make_optimizer, parameter_groups
from vldistill.training.run_log import TrainMetrics
from vldistill.training.sharding import clip_gradients
from vldistill.training.validation import pretext_metrics

WORDS, ROWS, PATCH, LENGTH = 60, 4, 4, 7
SIZES = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 12}
LAYERS = SIZES | {"num_attention_heads": 2, "intermediate_size": 24}
TYPED = LAYERS | {"modality_type_vocab_size": 3, "image_size": 8, "patch_size": PATCH}
CONFIGS = {
    "vilt": EncoderConfig(**TYPED),
    "oscar": replace(tiny_oscar.CONFIG, vocab_size=WORDS),
    "meter": MeterConfig(
        **TYPED, text_width=16, text_layers=2, text_heads=2, text_feedforward=24, vision_width=16, vision_layers=2, vision_heads=2
    ),
    "clip_dual": ClipConfig(
        **SIZES,
        text_width=16,
        text_heads=2,
        text_feedforward=24,
        vision_layers=2,
        vision_width=16,
        vision_heads=2,
        vision_feedforward=24,
        image_size=8,
        patch_size=PATCH,
    ),
    "clip_vil": ClipVilConfig(
        **over_regions.SIZES | {"vocab_size": WORDS},
        max_position_embeddings=20,
        region_size=64 * 4,
        tower={"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
        long_side=96,
    ),
    "text_encoder": TextConfig(**LAYERS),
    "vision_encoder": VisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=PATCH
    ),
    **dict.fromkeys(("uniter", "vlbert"), replace(over_regions.CONFIG, vocab_size=WORDS)),
}
DUAL_ENCODERS = {kind: section.fusion for kind, section in STUDENTS.items() if section.dual}
CONFIGS |= {dual: CONFIGS[fusion] for dual, fusion in DUAL_ENCODERS.items()}
ONE_CLASS_HEADS = ("uniter", "vlbert", "clip_vil")  # whose head depends on the target
PASSES = {"adversarial": AdversarialStep(2, 1e-2, 1.0, True, True, "label")}


@dataclass
class Case:
    """objective: from the student. teacher: what it is taught by, or None. passes: of a batch."""

    student: torch.nn.Module
    batch: Batch
    objective: torch.nn.Module
    teacher: Callable | None = None
    passes: Callable = forward_backward


def texts(rows: int) -> TextBatch:
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH, 4, 6, 5][row % 4] for row in range(rows)])[:, None]
    ids = torch.randint(5, 39, (rows, LENGTH), generator=draw).masked_fill(~mask, 0)
    words = torch.arange(-1, LENGTH - 1).expand(rows, -1).masked_fill(~mask, -1).clone()
    segments = torch.randint(0, 2, (rows, LENGTH), generator=draw).masked_fill(~mask, 0)
    return TextBatch(ids, mask, words, segments, torch.randint(-1, 4, (rows, LENGTH), generator=draw).masked_fill(~mask, -1))


def patches(square: bool):
    random = np.random.default_rng(8)
    grids = [(2, 2)] * ROWS if square else [(2, 2), (3, 2), (1, 2), (2, 2)]
    drawn = [random.integers(0, 256, (high * PATCH, wide * PATCH, 3), dtype=np.uint8) for high, wide in grids]
    return stack_patches([patchify(pixels, PATCH) for pixels in drawn], grids)


def regions() -> RegionBatch:
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor([2, 4, 1, 3])[:, None]
    corners = torch.rand(ROWS, 4, 2, generator=draw) / 2
    return RegionBatch(
        torch.randn(ROWS, 4, 6, generator=draw),
        torch.cat([corners, corners + 0.3], -1),
        mask,
        torch.randn(ROWS, 6, generator=draw),
    )


def canvases() -> LetterboxBatch:
    pixels = torch.randint(0, 256, (ROWS, 3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return LetterboxBatch(pixels, [False, True] * (ROWS // 2), torch.arange(ROWS))


SEEN = {
    "vilt": partial(patches, False),
    "dual_encoder": partial(patches, False),
    "clip_vil": canvases,
    "pixelbert": canvases,
    **dict.fromkeys(("meter", "meter_dual", "clip_dual", "vision_encoder"), partial(patches, True)),
    **dict.fromkeys(("uniter", "vlbert", "oscar", "oscar_dual", "visualbert", "lxmert"), regions),
}


def batch_of(kind: str, images: int = 1, choices: int = 1) -> Batch:
    """Rows of a few words and what a kind of student sees, with labels."""
    views = [SEEN[kind]() for _ in range(images)] if kind in SEEN else []
    sources = [
        RecordSource(
            tuple(f"{row}-{view}.png" for view in range(images)),
            tuple(((f"word{row}", f"c{choice}"),) for choice in range(choices)),
        )
        for row in range(ROWS)
    ]
    target = (
        torch.rand(ROWS, 3, generator=torch.Generator().manual_seed(2))
        if kind == "vision_encoder"
        else torch.arange(ROWS) % (choices if choices > 1 else 2)
    )
    return Batch([str(row) for row in range(ROWS)], texts(ROWS * choices), views, target, sources)


def student_of(kind: str, images: int = 1, classes: int = 3, pretraining: tuple[str, ...] = (), target: str = "label"):
    """A small one with fresh weights."""
    if kind in baselines.CONFIGS:
        return new_student(baselines.spec_of(kind, images))
    made, config = family_of(kind).model, CONFIGS[kind]
    if kind in ONE_CLASS_HEADS:
        return made(config, classes=1 if target == "choice" else classes, target=target)
    if kind == "text_encoder":
        return made(config, pretraining)
    if kind == "vision_encoder":
        return made(config, classes)
    more = {"pretraining": pretraining} if pretraining else {}
    return made(config, images=images, classes=classes, **more)


class Live:
    """Networks on the device that compute in fp32, whatever the student's autocast; features as caches hold them, fp16 on the
    CPU."""

    def __init__(self):
        self.vision, self.text = (torch.nn.Linear(4, width).to(virtual_device.NAME) for width in (8, 6))

    def images(self, paths):
        return self._computed(self.vision, len(paths))

    def sentences(self, sentences):
        return self._computed(self.text, len(sentences))

    def words(self, pairs, most):
        index = torch.tensor([[1, 3 if row % 2 else -1] for row in range(len(pairs))])
        return index, self._computed(self.text, len(pairs) * most).view(len(pairs), most, -1)

    def _computed(self, network, rows):
        with torch.no_grad():
            features = network(torch.randn(rows, 4, device=virtual_device.NAME))
        assert features.dtype == torch.float32, f"a teacher computed in {features.dtype}"
        return features.cpu().half()


def unimodal(fusion: Callable | None = None) -> UnimodalTeachers:
    return UnimodalTeachers(Live(), vision=True, text=True, words=2, fusion=fusion)


def fusion_of(kind: str, **sizes) -> Callable:
    """The teacher that a kind of student is distilled from: its own kind, or that of its towers."""
    model = student_of(DUAL_ENCODERS.get(kind, kind), **sizes).to(virtual_device.NAME).eval().requires_grad_(False)
    return torch.no_grad()(model)


def loss_of(student: torch.nn.Module, target: str = "label") -> str:
    return getattr(student, "losses", {}).get(target, target)


def labels(kind: str) -> Iterator[Case]:
    for images in (1, 2) if kind not in (*ONE_CLASS_HEADS, "text_encoder", "vision_encoder") else (1,):
        student = student_of(kind, images)
        yield Case(student, batch_of(kind, images), HardLabels("tags" if kind == "vision_encoder" else loss_of(student)))
    if kind in ONE_CLASS_HEADS:
        student = student_of(kind, target="choice")
        yield Case(student, batch_of(kind, choices=2), HardLabels(loss_of(student, "choice")))
    if kind == "uniter":
        yield Case(student := student_of(kind), batch_of(kind), HardLabels(loss_of(student)), None, PASSES["adversarial"])
    if kind == "vlbert":
        yield Case(end_to_end.student(), end_to_end.batch(), HardLabels("choice_bce"))


def dide(kind: str) -> Iterator[Case]:
    for attention in ("cross", "none") if "meter" in kind else ("cross", "uni", "whole", "none"):
        for images, layers in ((1, "last"), (2, "all")):
            student = student_of(kind, images)
            chosen = {"attention": attention, "layers": layers, "hidden_states": layers == "all", "hard_label_weight": 0.5}
            yield Case(
                student,
                batch_of(kind, images),
                DiDE(loss="label", depth=student.layers, **chosen),
                fusion_of(kind, images=images),
            )


def advl(kind: str) -> Iterator[Case]:
    for mode in ("learned", "uncertainty"):
        student = student_of(kind)
        depth, width = student.layers, student.width
        distances = Distances(width=width, vision=Pathway(1, 8), text=Pathway(depth, 6), words=Pathway(depth, 6), map="learned")
        task = Advl(HardLabels(loss_of(student)), distances, Scalars(mode=mode), confident=True)
        yield Case(student, batch_of(kind), task, unimodal())
        if mode == "learned":
            yield Case(student_of(kind), batch_of(kind), AdvlMatching(task, width=width, depth=depth), unimodal())
    if kind == "uniter":
        yield Case(student, batch_of(kind), task, unimodal(), PASSES["adversarial"])
    if kind in DUAL_ENCODERS:
        both = Advl(DiDE(loss="label", depth=depth, attention="cross"), distances, Scalars(mode="learned"), confident=True)
        yield Case(student_of(kind), batch_of(kind), both, unimodal(fusion_of(kind)))


def pretrain(kind: str) -> Iterator[Case]:
    heads = (MLM,) if kind == "text_encoder" else (MLM, ITM)
    tasks = (CMC, *heads) if kind in DUAL_ENCODERS else heads
    for distils in (False, True) if kind != "text_encoder" else (False,):
        student = student_of(kind, classes=0, pretraining=heads)
        objective = Pretraining(
            tasks,
            depth=student.layers,
            vocabulary=WORDS,
            mask_id=4,
            soft_labels=distils,
            attention="cross" if distils else "none",
            hard_label_weight=float(not distils),
            probability=0.5,
        )
        yield Case(student, batch_of(kind), objective, fusion_of(kind, classes=0, pretraining=heads) if distils else None)


def retrieval(kind: str) -> Iterator[Case]:
    if not issubclass(family_of(kind).model, DualEncoder):
        yield Case(student_of(kind, classes=0, pretraining=(RANK,)), replace(batch_of(kind, choices=3)), TextRanking())
        return
    yield Case(student := student_of(kind, classes=0), batch_of(kind), DualRetrieval(depth=student.layers))
    if kind in DUAL_ENCODERS:
        yield Case(
            student := student_of(kind, classes=0),
            batch_of(kind),
            DualRetrieval(depth=student.layers, attention="cross"),
            fusion_of(kind, classes=0),
        )


CASES = {"labels": labels, "dide": dide, "advl": advl, "pretrain": pretrain, "retrieval": retrieval}


def train(case: Case, precision: str) -> dict[str, float]:
    """Two steps as the loop takes them, and a validation. Raises `DeviceMismatch`."""
    AcceleratorState._reset_state(True)
    accelerator = make_accelerator(Precision(precision, ""), 1, [], Path(tempfile.gettempdir()))
    for state in (accelerator.state, PartialState()):
        state._shared_state["device"] = torch.device(virtual_device.NAME, 0)
    case.student.to(accelerator.device)
    optimizer = make_optimizer(parameter_groups(case.student, case.objective, weight_decay=0.01, lr=1e-3, head_lr_multiplier=1.0))
    schedule = linear_schedule(optimizer, 1, 10)
    learner, optimizer = accelerator.prepare(Learner(case.student, case.objective), optimizer)
    meter, objective = TrainMetrics(accelerator, 1, tolerant=False), accelerator.unwrap_model(learner).objective
    learner.train()
    virtual_device.log.__init__()
    for _ in range(2):
        batch = case.batch.to(accelerator.device)
        arranged = objective.prepare_batch(batch)
        read = arranged if objective.teacher_reads_prepared else batch
        with accelerator.accumulate(learner):
            with accelerator.autocast():
                taught = case.teacher(read, objective.teacher_capture) if case.teacher else None
            terms, loss = case.passes(learner, arranged, taught, accelerator)
            meter.norm = clip_gradients(learner, accelerator, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        meter.add(terms, loss, objective.logs, batch.ids)
        schedule.step()
    told = {"waits": sum(virtual_device.log.waits.values()), "launches": virtual_device.log.launches // 2}
    told["loss"] = meter.read(2)["loss"]
    objective.after_validation({"confidence_when_right": 0.7})
    objective.warnings()
    if objective.judged:
        pretext_metrics(case.student, objective, [case.batch], accelerator, seed=0)
    elif not isinstance(objective, DualRetrieval):
        answer(
            case.student,
            [case.batch],
            ["a", "b", "c", "d"][: 3 if case.batch.target.dim() > 1 else 4],
            accelerator.device,
            autocast=accelerator.autocast,
            tags=case.batch.target.dim() > 1,
        )
    return told


def control() -> None:
    """The device sees what it is there to see: a tensor that was left on the CPU, and what waits or copies."""
    there, here = torch.ones(3, 3).to(virtual_device.NAME), torch.ones(3, 3)
    wrong = (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: there.numpy(),
        lambda: here[there > 0],
        lambda: torch.embedding(there, torch.tensor([1])),
        lambda: there.copy_(here) @ here,
        lambda: torch.nn.functional.layer_norm(there.bfloat16(), (3,), there[0]),
    )
    for number, operation in enumerate(wrong):
        try:
            operation()
        except virtual_device.DeviceMismatch:
            continue
        raise AssertionError(f"operation {number} passed")
    mask = torch.tensor([[True, False, True]])
    attended = torch.nn.functional.scaled_dot_product_attention
    whole = torch.randn(1, 3, 4)
    found = attended(*[whole.to(virtual_device.NAME)] * 3, mask.to(virtual_device.NAME)).cpu()
    assert torch.allclose(found, attended(whole, whole, whole, mask), atol=1e-6)
    moved = torch.nn.Linear(3, 3).to(virtual_device.NAME).to(torch.bfloat16)
    assert moved(there.bfloat16()).dtype == moved.weight.inner.dtype == torch.bfloat16
    with torch.autocast(virtual_device.NAME, torch.bfloat16):
        lowered = torch.nn.functional.linear(there, there)
        kept = torch.softmax(lowered, -1), torch.nn.functional.layer_norm(there, (3,)), there + lowered
    assert (lowered.dtype, *(one.dtype for one in kept)) == (
        torch.bfloat16,
        *[torch.float32] * 3,
    ) and there.dtype == torch.float32
    virtual_device.log.__init__()
    assert (there + there).sum().item() == 18 and there[there > 0].tolist() == [1.0] * 9 and there.cpu().device.type == "cpu"
    waits = Counter(what for what, _ in virtual_device.log.waits.elements())
    assert waits == {"_local_scalar_dense": 1, "an index by a mask": 1, "tolist": 1, "a copy": 1}, waits
    assert sum(virtual_device.log.copies.values()) == there.numel() * 4


def main() -> None:
    virtual_device.install()
    torch.set_num_threads(1)
    control()
    for pair in sys.argv[1:]:
        precision, kind, method, *most = pair.split("/")
        torch.manual_seed(0)
        for number, case in enumerate(islice(CASES[method](kind), int(most[0]) if most else None)):
            try:
                told = train(case, precision)
            except Exception as error:
                told = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps({"pair": pair, "case": number, **told}), flush=True)


if __name__ == "__main__":
    main()
