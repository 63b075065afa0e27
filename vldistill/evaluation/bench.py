"""Latency of the fusion encoder against the dual encoder, in one process, with the FLOP limit beside each ratio.

Regimes, at 384x640 pixels (240 patches of 32) unless a run says otherwise:
- fusion: text and image in one sequence; the reference is stock `transformers` ViLT, texts padded to the longest length.
- online: both towers and the head. cached: text tower and head on stored image vectors, in memory or from an index on disk.
  encoding images: what an image costs once, before it is cached.
- pair (NLVR2): two images a text; fusion passes twice, the dual encoder encodes the text once.
- capture: keeping the last layer's queries and keys, in inference and in training.
- step: an optimisation step of the student alone and with its teacher.
Retrieval is in `bench_retrieval`.
Baselines of random weights measure the same arithmetic as trained ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.evaluation import cost
from vldistill.evaluation.cost import Timing, measure
from vldistill.evaluation.opened import DTYPES
from vldistill.models.base.outputs import Capture
from vldistill.models.vilt.model import EncoderConfig, Vilt, ViltDual
from vldistill.objectives.dide import DiDE

PAPER_GRID = (12, 20)
STORED = "dual, images from the index"


@dataclass(frozen=True)
class BenchRow:
    """One measured variant. p50, p95: None where it was measured once. speedup: the reference's seconds over these. limit: the
    same ratio in FLOP. note: what else is to be said of it."""

    group: str
    variant: str
    batch: int
    tokens: int
    precision: str
    seconds: float
    p50: float | None
    p95: float | None
    peak_mb: float | None
    speedup: float | None
    limit: float | None
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """What is held fixed for a set of rows. lengths: text tokens, the longest being the fusion encoder's padding."""

    config: EncoderConfig
    grid: tuple[int, int]
    batch: int
    lengths: tuple[int, ...]
    precision: str
    device: torch.device
    rounds: int

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def longest(self) -> int:
        return max(self.lengths)


def make_batch(setting: Setting, tokens: int, *, images: int = 1) -> Batch:
    """Random inputs of the real shapes, without padding."""
    config, device, dtype = setting.config, setting.device, DTYPES[setting.precision]
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(5, config.vocab_size, (setting.batch, tokens), generator=generator).to(device)
    text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    views = []
    for _ in range(images):
        pixels = torch.rand(setting.batch, setting.patches, 3 * config.patch_size**2, generator=generator) * 2 - 1
        mask = torch.ones(setting.batch, setting.patches, dtype=torch.bool, device=device)
        views.append(ImageBatch(pixels.to(device, dtype), mask, [setting.grid] * setting.batch))
    return Batch([""] * setting.batch, text, views, torch.zeros(setting.batch, dtype=torch.long, device=device))


def frozen(model: nn.Module, setting: Setting) -> nn.Module:
    """For inference in the setting's precision, where it is measured."""
    return model.to(setting.device, DTYPES[setting.precision]).eval().requires_grad_(False)


def library_vilt(setting: Setting) -> Callable[[Batch], list[Tensor]]:
    """Stock `transformers.ViltModel` on inputs of the same shapes, one pass for each image of a record."""
    from transformers import ViltConfig, ViltModel

    names = EncoderConfig().to_dict().keys()
    model = frozen(ViltModel(ViltConfig(**{name: getattr(setting.config, name) for name in names})), setting)
    side = setting.config.patch_size
    shape = (setting.batch, 3, setting.grid[0] * side, setting.grid[1] * side)
    pixels = torch.zeros(shape, device=setting.device, dtype=DTYPES[setting.precision])
    mask = torch.ones(setting.batch, *shape[2:], dtype=torch.long, device=setting.device)

    def run(batch: Batch) -> list[Tensor]:
        text = {"input_ids": batch.text.ids, "attention_mask": batch.text.mask.long()}
        return [model(**text, pixel_values=pixels, pixel_mask=mask).pooler_output for _ in batch.images]

    return run


def speed_rows(
    setting: Setting, *, images: int = 1, dual: ViltDual | None = None, stored: Callable[[int], list[Tensor]] | None = None
) -> list[BenchRow]:
    """Fusion against dual encoder, with one image a text or (NLVR2) two: then the fusion encoder passes twice, and the dual
    encoder reads the text once. `dual`: a trained one, else random weights. stored: reads the vectors of so many images at each
    place from disk, for a row of its own."""
    config = EncoderConfig(
        **{**setting.config.to_dict(), "modality_type_vocab_size": max(images + 1, setting.config.modality_type_vocab_size)}
    )
    longest = setting.longest
    fusion = frozen(Vilt(config, images=images, classes=3), setting)
    dual = frozen(dual or ViltDual(config, images=images, classes=3), setting)
    library = library_vilt(setting)
    batches = {tokens: make_batch(setting, tokens, images=images) for tokens in setting.lengths}

    def encode_images() -> list[Tensor]:
        return [dual.encode_image(image, place) for place, image in enumerate(batches[longest].images)]

    with torch.inference_mode():
        cached = encode_images()
        calls: dict[str, Callable[[], object]] = {
            f"fusion, transformers|{longest}": lambda: library(batches[longest]),
            f"fusion, ours|{longest}": lambda: fusion(batches[longest]),
            f"dual, online|{longest}": lambda: dual(batches[longest]),
            f"dual, encoding images|{longest}": encode_images,
        }
        for tokens in setting.lengths:
            calls[f"dual, images cached|{tokens}"] = lambda b=batches[tokens]: dual.fuse(dual.encode_text(b.text), cached)
            if stored is not None:
                calls[f"{STORED}|{tokens}"] = lambda b=batches[tokens]: dual.fuse(
                    dual.encode_text(b.text), [vectors.to(cached[0]) for vectors in stored(len(b))]
                )
        timings = measure(calls, rounds=setting.rounds, device=setting.device)
    reference = images * cost.fusion_flops(longest, setting.patches, config)
    offline = images * cost.image_flops(setting.patches, config)
    needed = {}
    for name in calls:
        kind, tokens = name.split("|")
        text = cost.text_flops(int(tokens), config) + images * cost.fuse_flops(config)
        own = {"dual, online": text + offline, "dual, encoding images": offline, "dual, images cached": text, STORED: text}
        needed[name] = own.get(kind, reference)
    return as_rows("one image" if images == 1 else "two images", setting, timings, reference, needed)


def pair_rows(setting: Setting) -> list[BenchRow]:
    """`speed_rows` with two images a text."""
    return speed_rows(setting, images=2)


def capture_rows(setting: Setting) -> list[BenchRow]:
    """What keeping the last layer's queries and keys costs; `speedup` is plain over captured seconds."""
    config, longest = setting.config, setting.longest
    fusion = frozen(Vilt(config, images=1, classes=3), setting)
    batch = make_batch(setting, longest)
    last = Capture(qk=(config.num_hidden_layers,))
    with torch.inference_mode():
        timings = measure(
            {"inference, plain|": lambda: fusion(batch), "inference, last q and k|": lambda: fusion(batch, last)},
            rounds=setting.rounds,
            device=setting.device,
        )
    rows = as_rows("capture", setting, timings, None, {})
    student = ViltDual(config, images=1, classes=3).to(setting.device, DTYPES[setting.precision]).train()

    def step(capture: Capture) -> None:
        output = student(batch, capture)
        extra = sum(qk.text_query.sum() * 0 + qk.image_key.sum() * 0 for view in output.views for qk in view.qk.values())
        (output.logits.float().square().mean() + extra).backward()
        student.zero_grad(set_to_none=True)

    timings = measure(
        {"training, plain|": lambda: step(Capture()), "training, last q and k|": lambda: step(last)},
        rounds=setting.rounds,
        device=setting.device,
    )
    return rows + as_rows("capture", setting, timings, None, {})


def step_rows(setting: Setting) -> list[BenchRow]:
    """An optimisation step (fp32 weights, autocast, AdamW) of the student on labels, and with the live teacher (soft labels
    and attention). Memory includes weights, gradients and AdamW's states."""
    config, longest = setting.config, setting.longest
    teacher = frozen(Vilt(config, images=1, classes=3), setting)
    student = ViltDual(config, images=1, classes=3).to(setting.device).train()
    objective = DiDE(loss="label", depth=config.num_hidden_layers)
    optimizer = torch.optim.AdamW(student.parameters())
    batch = make_batch(setting, longest)
    mixed = {"device_type": setting.device.type, "dtype": DTYPES[setting.precision], "enabled": setting.precision != "fp32"}

    def descend(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def plain() -> None:
        with torch.autocast(**mixed):
            loss = nn.functional.cross_entropy(student(batch).logits.float(), batch.target)
        descend(loss)

    def distilled() -> None:
        with torch.autocast(**mixed):
            with torch.no_grad():
                taught = teacher(batch, objective.teacher_capture)
            loss = sum(objective(student(batch, objective.student_capture), taught, batch).values())
        descend(loss)

    timings = measure(
        {f"student alone|{longest}": plain, f"with its teacher|{longest}": distilled},
        rounds=setting.rounds,
        device=setting.device,
    )
    # Held before the call: the student's weights and AdamW's two states, and the teacher's weights.
    held = {
        f"student alone|{longest}": 3 * _mebibytes(student),
        f"with its teacher|{longest}": 3 * _mebibytes(student) + _mebibytes(teacher),
    }
    timings = {name: replace(t, peak_mb=None if t.peak_mb is None else t.peak_mb + held[name]) for name, t in timings.items()}
    own = 3 * (cost.text_flops(longest, config) + cost.image_flops(setting.patches, config) + cost.fuse_flops(config))
    both = own + cost.fusion_flops(longest, setting.patches, config)
    return as_rows("training step", setting, timings, own, {f"student alone|{longest}": own, f"with its teacher|{longest}": both})


def _mebibytes(model: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20


def as_rows(
    group: str, setting: Setting, timings: dict[str, Timing], reference: float | None, needed: dict[str, float]
) -> list[BenchRow]:
    """The first variant is the reference."""
    first = next(iter(timings.values())).minimum
    rows = []
    for name, timing in timings.items():
        variant, tokens = name.split("|")
        limit = reference / needed[name] if reference else None
        measured = (*astuple(timing), first / timing.minimum, limit)
        rows.append(BenchRow(group, variant, setting.batch, int(tokens or setting.longest), setting.precision, *measured))
    return rows


GROUPS = {"speed": speed_rows, "pair": pair_rows, "capture": capture_rows, "step": step_rows}


def as_json(rows: list[BenchRow], device: str) -> dict[str, Any]:
    """The result as plain data."""
    return {"device": device, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
