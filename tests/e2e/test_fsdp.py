"""Students that two processes hold together (FSDP) learn what they learn when each process holds all (DDP), whatever their kind;
and leave, and go on, as those do."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file
from tiny_oscar import prepare_with_regions
from tiny_teachers import write_bert, write_clip, write_grid_clip, write_vit

from vldistill.training.preemption import PREEMPTED

# With AdamW's usual 1e-8 a gradient that is nothing but rounding moves a weight by a whole step, either way.
RECIPE = """
data: {path: artifacts/data/toy-vqa}
image: {size: 36}
text: {max_length: 16, vocabulary_size: 300}
student: {kind: vilt, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}, dropout: 0.0}
objective: {kind: labels}
optim: {lr: 1e-3, eps: 1e-3, clip: 1.0}
train: {steps: 4, batch: {pairs: 4}, eval_pairs: 16, log_every: 1, validate_every: 2}
"""
SIZES = "sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}, dropout: 0.0"
TEACHERS = (
    "teachers={vision: {kind: timm, model: teachers/vit}, text: {kind: transformers, model: teachers/bert}, "
    "relevance: {kind: open_clip, model: teachers/clip, weights: random}}"
)
ADVL = "objective={kind: advl, answer_loss: softmax, itm_fraction: 0.5, map: anchored, anchor: {records: 16}}"
REGIONS = ("regions={path: artifacts/regions/toy, most: 3}", "text.max_length=30")
NLVR2 = "data.path=artifacts/data/toy-nlvr2"
METER = f"student={{kind: meter, {SIZES}}}"
PATCHES = ("image.size=12", "student.sizes.patch=6")


def region_student(kind: str) -> tuple[str, ...]:
    return (*REGIONS, f"student={{kind: {kind}, {SIZES}}}")


CASES = {
    "vilt": ("finetune",),
    "accumulated": ("finetune", "train.batch.accumulate=2"),
    "recomputed": ("finetune", "train.gradient_checkpointing=true"),
    "bf16": ("finetune", "train.precision=bf16"),
    "advl": ("distill", TEACHERS, ADVL),
    **{kind: ("finetune", *region_student(kind)) for kind in ("uniter", "vlbert", "visualbert", "lxmert", "oscar")},
    "villa": ("finetune", *region_student("uniter"), "adversarial={steps: 2, image: true}"),
    "oscar_dual": ("finetune", NLVR2, *region_student("oscar_dual")),
    "pixelbert": (
        "finetune",
        "image={size: 64, long_side: 96}",
        f"student={{kind: pixelbert, {SIZES}, pixels: {{model: test_resnet, weights: random, sample: 1}}}}",
    ),
    "clip_vil": (
        "finetune",
        "image={size: 32, long_side: 64}",
        f"student={{kind: clip_vil, {SIZES}, clip: {{model: teachers/grid_clip}}}}",
    ),
    "dual_encoder": ("finetune", NLVR2, "student.kind=dual_encoder"),
    "meter": ("finetune", NLVR2, METER, *PATCHES),
    "meter_dual": ("finetune", NLVR2, METER.replace("meter", "meter_dual"), *PATCHES),
    "clip_dual": ("finetune", NLVR2, f"student={{kind: clip_dual, {SIZES}}}", *PATCHES),
    "retrieval": ("finetune", "data.path=artifacts/data/toy-coco", "objective={kind: retrieval}", "student.kind=dual_encoder"),
    "pretraining": (
        "pretrain",
        "data.path=artifacts/data/toy-coco",
        "objective={kind: pretrain, tasks: [cmc, mlm, itm]}",
        "student.kind=dual_encoder",
    ),
    "text_encoder": (
        "pretrain",
        "data.path=artifacts/data/toy-coco",
        "objective={kind: pretrain, tasks: [mlm]}",
        f"student={{kind: text_encoder, {SIZES}}}",
    ),
    "vision_encoder": ("finetune", "data.path=artifacts/data/toy-diverse_images", "student.kind=vision_encoder"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory, well):
    """A folder with toy data, random regions, small teachers and the recipe."""
    folder = tmp_path_factory.mktemp("fsdp")
    for name, write in (("vit", write_vit), ("bert", write_bert), ("clip", write_clip), ("grid_clip", write_grid_clip)):
        write(folder / "teachers" / name)
    (folder / "small.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_with_regions(folder, well, "vqa,nlvr2,coco")
        well("prepare", "toy", "--scale", "0.01", "--datasets", "diverse-images")
        well("cache", "-r", "small.yaml", TEACHERS, ADVL)
    return folder


def rows(run: Path) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "pairs_per_s"} for row in lines]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_is_learnt_is_the_same(here, tmp_path, case):
    stage, *fields = CASES[case]
    runs = []
    for name in ("false", "true"):
        ended = forked.pair(
            here, tmp_path / name, stage, "-r", "small.yaml", "--runs", tmp_path, "--name", name, *fields, f"train.fsdp={name}"
        )
        assert [code for code, _ in forked.ends_of(ended)] == [0, 0], ended[0].err[-3000:]
        runs.append(tmp_path / "small" / name / "seed0")
        assert ("over 2 processes (FSDP)" in ended[0].out) == (name == "true")
    whole, shared = map(rows, runs)
    # In bf16 a sum in another order may round to the next value.
    near = {"rel": 2e-2, "abs": 2e-3} if case == "bf16" else {"rel": 1e-4, "abs": 1e-6}
    assert len(whole) == len(shared) >= 6
    for ours, theirs in zip(shared, whole, strict=True):
        assert ours.keys() == theirs.keys()
        numbers = [name for name, value in theirs.items() if isinstance(value, int | float)]
        assert [ours[name] for name in numbers] == pytest.approx([theirs[name] for name in numbers], **near)
    first, second = (load_file(run / "model/model.safetensors") for run in runs)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=2e-3 if case == "bf16" else 5e-6, rtol=1e-4, msg=name)


def pair(here: Path, runs: Path, name: str, *fields: str) -> list:
    return forked.pair(
        here,
        runs / name,
        "distill",
        "-r",
        "small.yaml",
        "--runs",
        runs,
        "--name",
        name,
        TEACHERS,
        ADVL,
        "train.steps=30",
        "train.validate_every=10",
        "--resume",
        "auto",
        *fields,
    )


@pytest.mark.slow
@pytest.mark.parametrize("before", ["true", "false"])
def test_it_leaves_and_goes_on(here, tmp_path, before):
    """`false`: a run that did not fit goes on shared out."""
    assert [code for code, _ in forked.ends_of(pair(here, tmp_path, "whole", "train.fsdp=true"))] == [0, 0]
    whole, run = (tmp_path / "small" / name / "seed0" for name in ("whole", "left"))
    for leaving_after in (4, 19):  # in ADVL's step 1, then in its step 2
        processes = pair(here, tmp_path, "left", f"train.fsdp={before if leaving_after == 4 else 'true'}")
        while processes[0].poll() is None:
            if (run / "metrics.jsonl").exists() and len(rows(run)) >= leaving_after:
                break
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGUSR2)
        assert [code for code, _ in forked.ends_of(processes)] == [PREEMPTED] * 2
    assert [code for code, _ in forked.ends_of(pair(here, tmp_path, "left", "train.fsdp=true"))] == [0, 0]
    weights = [load_file(one / "model/model.safetensors") for one in (whole, run)]
    if before == "true":
        assert rows(run) == rows(whole)
        assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=5e-5, rtol=1e-3, msg=name)
