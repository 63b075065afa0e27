"""What ADVL costs a training step, beside plain fine-tuning: python tests/measure/distil_step_cost.py [FOLDER]

A UNITER-base student, 4 pairs of 36 regions and 20 words, fp32, one thread: fine-tuned on labels; distilled from cached SwinV2-L
and RoBERTa-L (pooled image, sentence, two words); and from the same at work, with random weights, at 192 pixels and without CLIP.
Each goes through the training loop itself, loader and optimiser included. Rounds are interleaved in one process; CPU seconds, the
best of each. The FLOP are counted over the very steps. About 6 minutes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from measuring import start
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from vldistill.data.loading import make_loader
from vldistill.data.prepare import prepare
from vldistill.data.prepare_regions import Target, import_regions
from vldistill.data.samplers import EpochBatches
from vldistill.data.text import train_tokenizer
from vldistill.recipe.load import load_recipe
from vldistill.recipe.schema.recipe import Recipe
from vldistill.runtime import choose_precision, make_accelerator, seed_everything
from vldistill.training.build import build_parts
from vldistill.training.caches import TeacherCaches
from vldistill.training.loop import Learner, PhasePlan, Teacher, fit
from vldistill.training.optim import linear_schedule, make_optimizer, parameter_groups
from vldistill.training.parts import Parts
from vldistill.training.run_log import RunLog
from vldistill.training.stages import for_stage

RECORDS, PAIRS, REGIONS, WORDS, ROUNDS, STEPS = 32, 4, 36, 20, 9, 2
MOST, LEAST = 1.05, 0.9  # of a plain step's seconds; of what the FLOP say
RECIPE = """
data: {path: HERE/data}
regions: {path: HERE/regions}
text: {max_length: 40, vocabulary_size: 2000}
student: {kind: uniter}
teachers:
  vision: {kind: timm, model: swinv2_large_window12_192, weights: random}
  text: {kind: transformers, model: HERE/roberta, weights: random}
objective: {kind: advl, itm_fraction: 0}
train: {steps: 100, batch: {pairs: 4}, precision: fp32}
cache: {path: HERE/cache}
"""


def write_world(folder: Path) -> None:
    """Pictures, texts of made-up words, regions of a detector's size, and a RoBERTa-large without weights."""
    drawn, raw = random.Random(0), folder / "raw"
    vocabulary = ["".join(drawn.choices("aeioubdfgklmnprst", k=8)) for _ in range(300)]
    (folder / "features").mkdir(parents=True)
    raw.mkdir()
    values, rows, texts = np.random.default_rng(0), [], []
    for number in range(RECORDS):
        pixels = values.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(raw / f"{number}.jpg")
        corners = np.sort(values.uniform(0, 1, (REGIONS, 2, 2)), axis=1).reshape(REGIONS, 4)
        sides = corners[:, 2:] - corners[:, :2]
        np.savez(
            folder / "features" / f"{number}.npz",
            features=values.random((REGIONS, 2048)).astype(np.float16),
            conf=np.ones(REGIONS, np.float16),
            norm_bb=np.concatenate([corners, sides], axis=1).astype(np.float16),
            soft_labels=np.ones((REGIONS, 3), np.float16),
        )
        texts.append(drawn.choices(vocabulary, k=WORDS))
        rows.append({"id": str(number), "image": f"{number}.jpg", "text": " ".join(texts[-1]), "label": number % 2})
    for split in ("train", "val"):
        (raw / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("jsonl", raw, folder / "data")
    import_regions(folder / "features", Target(folder / "regions"))
    (folder / "roberta").mkdir()
    train_tokenizer(texts, 2000).save(folder / "roberta")
    sizes = {
        "vocab_size": 50265,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }
    (folder / "roberta/config.json").write_text(json.dumps({"model_type": "roberta", **sizes}))


def trainer(recipe: Recipe, parts: Parts, teacher: Teacher | None, accelerator: Accelerator, folder: Path) -> Callable[[], None]:
    """A function that trains on for STEPS steps."""
    groups = parameter_groups(parts.student, parts.objective, weight_decay=0.01, lr=1e-5, head_lr_multiplier=1.0)
    optimizer = make_optimizer(groups, betas=(0.9, 0.98), eps=1e-8)
    schedule = linear_schedule(optimizer, 0, 10_000)
    learner, optimizer = accelerator.prepare(Learner(parts.student, parts.objective), optimizer)
    batches = EpochBatches(len(parts.train), recipe.train.batch.pairs, seed=0)
    loader = make_loader(parts.train, batches)
    plan, journal = PhasePlan(0, STEPS, 1, STEPS, STEPS, None, 0), RunLog(folder, STEPS, active=False)

    def train() -> None:
        fit(
            learner,
            teacher,
            optimizer,
            schedule,
            loader,
            batches,
            accelerator,
            plan,
            journal,
            validate=lambda: {"accuracy": 0.0},
            save=None,
        )

    return train


def reading(parts: Parts) -> Callable[[], None]:
    """A function that reads STEPS batches with their cached features, and does nothing with them."""
    batches = EpochBatches(len(parts.train), PAIRS, seed=0)
    loader = make_loader(parts.train, batches)

    def read() -> None:
        for _, batch in zip(range(STEPS), loader, strict=False):
            parts.teacher(batch, parts.objective.teacher_capture)
        batches.epoch += 1

    return read


def flop(call: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / STEPS


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    write_world(folder)
    (folder / "step.yaml").write_text(RECIPE.replace("HERE", str(folder.resolve())))
    recipe = load_recipe(str(folder / "step.yaml"))
    seed_everything(0)
    plain = build_parts(for_stage("finetune", recipe))
    cached = build_parts(recipe, print)
    live = TeacherCaches(recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"mode": "live"})}))
    accelerator = make_accelerator(choose_precision("fp32"), 1, [], folder)
    calls = {
        "plain": trainer(recipe, plain, None, accelerator, folder),
        "cached": trainer(recipe, cached, cached.teacher, accelerator, folder),
        "live": trainer(recipe, cached, live.teachers(cached.data, None), accelerator, folder),
        "reading": reading(cached),
    }
    needed = {name: flop(calls[name]) for name in ("plain", "cached", "live")}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS):
        # The other way round every second time, so that none always comes first.
        for name in list(calls)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            calls[name]()
            seconds[name].append((time.process_time() - started) / STEPS)
    best, median = ({name: float(of(values)) for name, values in seconds.items()} for of in (min, np.median))
    share, limit, found = best["cached"] / best["plain"], needed["live"] / needed["cached"], best["live"] / best["cached"]
    for name in ("plain", "cached", "live"):
        print(f"{name:8}{best[name]:7.3f} s a step, median {median[name]:.3f}; {needed[name] / 1e9:,.0f} GFLOP")
    print(f"cached / plain {share:.3f} (medians {median['cached'] / median['plain']:.3f}), at most {MOST}: {share <= MOST}")
    print(f"live / cached {found:.2f}, by FLOP {limit:.2f}: {found / limit:.0%}, at least {LEAST:.0%}: {found / limit >= LEAST}")
    print(f"reading a batch and its features: {1000 * best['reading']:.1f} ms, {best['reading'] / best['cached']:.1%} of a step")


if __name__ == "__main__":
    start(main)
