"""The losses of the first fifty steps of ADVL's two steps and of DiDE's pre-training and fine-tuning, in fp32 on one CPU thread.

    python tests/golden/golden_curves.py           writes losses.json, beside this file, anew
    python tests/golden/golden_curves.py FILE      writes them elsewhere, to compare

Whatever changes what a run computes changes that file: write it anew only where the change is meant, so that a diff shows it, and
say in the commit why. A row of a curve is an optimiser step, in full precision.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import torch

FILE = Path(__file__).with_name("losses.json")
STEPS = 50
CURVES = {"advl matching": "distill", "advl task": "distill", "dide pretrain": "pretrain", "dide finetune": "distill"}
"""Of each curve, the stage."""
PACKAGES = ("numpy", "pillow", "timm", "transformers", "tokenizers", "open_clip_torch", "yake")
"""Beside torch: those that a figure comes from, be it by the random weights that a small teacher starts with."""

# With AdamW's usual 1e-8 a gradient that is nothing but rounding moves a weight by a whole step, either way; dropout is left out
# since other builds of torch draw other numbers.
_TRAIN = """
optim: {lr: 1e-3, eps: 1e-3, warmup: 0.1, clip: 1.0}
train: {steps: STEPS, batch: {pairs: 8}, eval_pairs: 8, log_every: 1, validate_every: 50, precision: fp32, checkpoint_minutes: 0}
"""
_SEEN = """
image: {size: 36, augment: jitter, shift: 1, noise: 0.04}
text: {max_length: 16, vocabulary_size: 200, vocabulary_from: [WORLD/data/coco, WORLD/data/nlvr2]}
"""
_SCRATCH = """
student: {kind: vilt, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}, dropout: 0.0}
"""
_DUAL = """
student: {kind: dual_encoder, init: WORLD/models/start, dropout: 0.0}
teacher: {kind: vilt, model: WORLD/models/TEACHER}
"""
_PRETRAIN = "objective: {kind: pretrain, tasks: [mlm, itm]}"
_FUSIONS = {"start": ("coco", _PRETRAIN), "pretrained": ("coco", _PRETRAIN), "answering": ("nlvr2", "objective: {kind: labels}")}
_DIDE = {
    "pretrain": (
        "coco",
        "pretrained",
        "{kind: pretrain, tasks: [cmc, mlm, itm], attention: cross, soft_labels: true, hard_label_weight: 0}",
    ),
    "finetune": ("nlvr2", "answering", "{kind: dide}"),
}
# Fifty steps of ADVL's first step need one more, since a run ends with the task.
_ADVL = {"matching": (0.98, STEPS + 1), "task": (0, STEPS)}


class _Enough(Exception):
    """The last step that is wanted has been logged."""


def _recipes() -> dict[str, str]:
    """By name, with WORLD for the folder."""
    from advl_worlds import advl_recipe

    found = {
        name: f"data: {{path: WORLD/data/{data}}}\n{objective}{_SEEN}{_SCRATCH}{_TRAIN.replace('STEPS', '1')}"
        for name, (data, objective) in _FUSIONS.items()
    }
    for name, (data, teacher, objective) in _DIDE.items():
        found[f"dide {name}"] = (
            f"data: {{path: WORLD/data/{data}}}\nobjective: {objective}{_SEEN}"
            f"{_DUAL.replace('TEACHER', teacher)}{_TRAIN.replace('STEPS', str(STEPS))}"
        )
    for name, (share, steps) in _ADVL.items():
        objective = f"objective: {{kind: advl, answer_loss: softmax, itm_fraction: {share}}}\ncache: {{mode: live}}"
        found[f"advl {name}"] = advl_recipe(
            objective + _TRAIN.replace("STEPS", str(steps)), data="WORLD/data/vqa", teachers="WORLD/teachers"
        )
    return found


def make_world(folder: Path) -> Path:
    """Data, teachers and recipes of all curves. Nobody has trained the fusion models: weights twice the usual size keep attention
    and predictions from being nearly flat."""
    from advl_worlds import write_teachers

    from vldistill.data.prepare import prepare
    from vldistill.data.toy.layouts import write_toy
    from vldistill.models.base.checkpoint import save_model
    from vldistill.recipe.load import load_recipe
    from vldistill.runtime import seed_everything
    from vldistill.training.build import build_parts

    datasets = ("vqa", "nlvr2", "coco")
    write_toy(folder / "raw", scale=0.01, datasets=datasets)
    for name in datasets:
        prepare(name, folder / "raw" / name, folder / "data" / name)
    write_teachers(folder / "teachers")
    for name, text in _recipes().items():
        (folder / f"{name.replace(' ', '_')}.yaml").write_text(text.replace("WORLD", str(folder)))
    for seed, name in enumerate(_FUSIONS):
        seed_everything(seed)
        parts = build_parts(load_recipe(str(folder / f"{name.replace(' ', '_')}.yaml")))
        with torch.no_grad():
            for value in parts.student.parameters():
                value.mul_(2 if value.ndim > 1 else 1)
        save_model(folder / "models" / name, parts.student, parts.spec, parts.tokenizer)
    return folder


def curve(world: Path, name: str, steps: int = STEPS, overrides: tuple[str, ...] = ()) -> dict[str, list]:
    """terms: "loss" and the names of what it is the sum of. steps: [steps, terms], of the first steps of the run."""
    from vldistill.recipe.load import load_recipe
    from vldistill.training.preemption import PreemptionGuard
    from vldistill.training.run import run_stage
    from vldistill.training.stages import Stage, for_stage

    asked = PreemptionGuard.ask

    def ask(self: PreemptionGuard, step: int) -> tuple[bool, bool]:
        if step == steps:
            raise _Enough
        return asked(self, step)

    with tempfile.TemporaryDirectory() as runs, mock.patch.object(PreemptionGuard, "ask", ask):
        recipe = for_stage(CURVES[name], load_recipe(str(world / f"{name.replace(' ', '_')}.yaml"), list(overrides)))
        stage = Stage(CURVES[name], recipe, [], Path(runs), "golden")
        with suppress(_Enough):
            run_stage(stage, say=lambda text: None)
        rows = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    terms = [term for term in rows[0] if term.startswith("loss")]
    return {"terms": terms, "steps": [[row[term] for term in terms] for row in rows]}


def this_platform() -> dict[str, str]:
    """Where the same program gives the same bits."""
    told = Path("/proc/cpuinfo").read_text().partition("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    # A virtual machine may call all of a maker's processors by one name.
    parts = re.findall(r"^(?:model name|cpu family|model)\s*:\s*(.*)$", told, re.M)
    return {
        "cpu": ", ".join(sorted(parts)) or platform.processor(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in PACKAGES},
    }


def start_drawn() -> str:
    """A digest of what models start with. Before 2.10 or so torch drew other numbers for it."""
    torch.manual_seed(0)
    return hashlib.sha256(torch.nn.init.trunc_normal_(torch.empty(64, 64), std=0.02).numpy().tobytes()).hexdigest()[:8]


def written(value: dict[str, Any]) -> str:
    """As JSON, a step a line."""
    return re.sub(r"\[[^][]*\]", lambda found: " ".join(found[0].split()), json.dumps(value, indent=1)) + "\n"


def main(file: Path = FILE) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        curves = {name: curve(world, name) for name in CURVES}
    file.write_text(written({"platform": this_platform(), "start": start_drawn(), "curves": curves}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
