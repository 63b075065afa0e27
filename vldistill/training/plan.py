"""What a training stage would do, told before it does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vldistill.data.artifact import open_data
from vldistill.data.datasets import MixedDataset
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.store import RegionStore
from vldistill.data.transforms import size_faults
from vldistill.errors import needed
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.families import section_of
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.batches import describe_batch
from vldistill.training.lr_schedule import describe_rates
from vldistill.training.methods.table import method_of
from vldistill.training.parts import Parts
from vldistill.training.stages import Stage, make_phases


def _steps(count: int) -> str:
    return f"{count} steps" if count > 1 else "step"


def describe(stage: Stage, parts: Parts, world: int = 1) -> dict[str, str]:
    """What the stage would do, for `--dry-run` and the head of the log."""
    recipe = stage.recipe
    phases = make_phases(recipe, parts, world)
    task, effective = phases[-1], phases[-1].pairs
    steps = task.plan.last
    trained = sum(p.numel() for p in parts.student.parameters() if p.requires_grad)
    trained += sum(p.numel() for p in parts.objective.parameters() if p.requires_grad)
    rows = {
        "data": f"{recipe.data.path}: {len(parts.train)} training, {len(parts.val)} validation records of `{parts.data.task}`"
        + (f"; {parts.dropped} without a usable answer left out" if parts.dropped else "")
        + (f"; {_describe_mix(recipe, parts.train)}" if recipe.data.mix else ""),
        "student": f"{recipe.student.kind} from {recipe.student.start()}, {trained:,} parameters trained",
        "teacher": parts.teacher.describe() if parts.teacher else "none",
        "objective": method_of(recipe.objective.kind).describe(recipe),
        "optimiser steps": f"{steps} ({steps * effective.mean / len(parts.train):.1f} epochs)"
        + (f"; the first {task.plan.first} match images and texts" if task.plan.first else ""),
        "optimiser": describe_rates(recipe, task.steps, effective.mean),
        "effective batch": describe_batch(recipe, [phase.pairs for phase in phases], world),
        "validation": f"every {_steps(task.plan.validate_every)} on `{recipe.data.val}`; the best is kept",
        "run": f"{stage.folder}" + (" (exists: refused without --overwrite)" if stage.folder.exists() else ""),
    }
    if recipe.train.fsdp:
        rows["sharing"] = _describe_sharing(recipe, parts, world)
    if parts.spec.regions:
        rows["regions"] = _describe_regions(parts.spec)
    if parts.spec.image_network:
        rows["images"] = _describe_network(parts.spec.image_network, flip=recipe.image.augment == "flip")
    if recipe.student.sees == "letterbox":
        rows["images"] = f"{recipe.image.size} x {recipe.image.long_side} pixels, {recipe.student.look(parts.spec.encoder)}"
    if parts.train.visual.seen and (faults := str(size_faults(_image_sizes(recipe, parts), parts.train.visual.seen))):
        rows["image sizes"] = f"WARNING: {faults}"
    if recipe.data.limit:
        rows["partial"] = f"only the first {recipe.data.limit} records a split"
    return rows


def _image_sizes(recipe: Recipe, parts: Parts) -> Iterator[tuple[str, int, int]]:
    """Of all images of the data, whichever records name them."""
    for data in (parts.data, *(open_data(Path(part.path)) for part in recipe.data.mix)):
        yield from data.image_sizes(upright=parts.spec.upright)


def _describe_sharing(recipe: Recipe, parts: Parts, world: int) -> str:
    """Bytes of what FSDP shares out, in fp32: every weight, and for those that learn a gradient and the optimiser's moments."""
    if world == 1:
        return "train.fsdp, but one process has nobody to share with"
    learnt = {"adamw": 4, "sgd": 3 if recipe.optim.momentum else 2}[recipe.optim.kind]
    held = sum(4 * p.numel() * (learnt if p.requires_grad else 1) for p in parts.student.parameters())
    return f"{held / 1e6:,.1f} MB of the student's weights, gradients and moments over {world} processes (FSDP)"


def _describe_mix(recipe: Recipe, train: MixedDataset) -> str:
    parts = [(recipe.data.path, recipe.data.weight), *((part.path, part.weight) for part in recipe.data.mix)]
    shares = [
        f"{share} of {Path(path).name}" + (f" (x {weight:g})" if weight != 1 else "")
        for share, (path, weight) in zip(train.shares, parts, strict=True)
    ]
    return f"an epoch has {', '.join(shares)}"


def _describe_regions(spec: ModelSpec) -> str:
    store = RegionStore(Path(needed(spec.regions, "the store")))
    line = f"{spec.regions}: {len(store):,} images, {store.features} features"
    if spec.official and store.features not in section_of(spec.kind).features:
        line += ". WARNING: the student's checkpoint was trained on a detector's features; these mean nothing to it yet"
    return line


def _describe_network(network: ImageNetwork, *, flip: bool) -> str:
    blocks = "-".join(map(str, network.blocks))
    line = f"seen end to end by a ResNet of {blocks} blocks, {network.short_side} to {network.long_side} pixels a side"
    return line + ("; half of them mirrored in training, but not for teachers" if flip else "")
