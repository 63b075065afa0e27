"""CLIP, SLIP and DeCLIP as dual encoders through the command line: prepared data, two steps, evaluation, answers, an index; and
what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from official_declip_layout import PATCH, SIDE, official_declip
from tiny_teachers import write_clip

from vldistill.models.base.slip import SlipModel

CLIP = "student={{kind: clip_dual, clip: {{model: {folder}, weights: random}}, dropout: 0.0}}"
INIT = "student={{kind: clip_dual, init: {folder}, dropout: 0.0}}"
SCRATCH = "student={kind: clip_dual, dropout: 0.0, sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 6}}"
SIZES = {
    "clip": ("image.size=24", "text.max_length=12"),
    "slip": ("image.size=32", "text.max_length=12"),
    "declip": (f"image.size={SIDE * PATCH}", "text.max_length=14"),
    "scratch": ("image.size=12", "text.max_length=12"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, well) -> dict[str, Path]:
    """Folders of a small CLIP (open_clip's), SLIP and DeCLIP, the latter two converted from their published layouts."""
    folder = tmp_path_factory.mktemp("sources")
    found = {"clip": write_clip(folder / "clip"), "slip": folder / "slip", "declip": folder / "declip"}
    sizes = {
        "architecture": "vit_base_patch16_224",
        "options": {"embed_dim": 64, "depth": 1, "num_heads": 1, "img_size": 32},
        "width": 64,
        "layers": 1,
        "heads": 1,
        "shared": 8,
        "context": 12,
        "vocabulary": 49408,
    }
    weights = {f"module.{name}": value for name, value in SlipModel(**sizes).state_dict().items()}
    weights["module.visual.pos_embed"] = torch.randn(1, 197, 64)  # the converter knows images of 224 pixels
    torch.save({"state_dict": weights}, folder / "slip.pt")
    torch.save({"model": official_declip(), "last_iter": 1}, folder / "declip.pth.tar")
    for kind, file in (("slip", "slip.pt"), ("declip", "declip.pth.tar")):
        told = well("convert", kind, folder / file, found[kind], "--heads", "1").last
    assert told == {
        "model": str(found["declip"]),
        "kind": "declip",
        "vision": "2 x 64",
        "shared": 24,
        "text": "2 x 64",
        "kept": len(official_declip()) - 10,
        "left_out": 10,
    }
    return found


def student(kind: str, sources: dict[str, Path]) -> tuple[str, ...]:
    start = SCRATCH if kind == "scratch" else (CLIP if kind == "clip" else INIT).format(folder=sources[kind])
    return start, *SIZES[kind]


@pytest.mark.parametrize("kind", SIZES)
def test_it_learns_from_labels_and_is_evaluated_with_an_index_and_without(sources, train, well, tmp_path, kind):
    run = train("finetune", "quickstart_teacher", *student(kind, sources), "optim.lr=1e-3")
    assert run.manifest["complete"]
    found = run.losses()
    assert len(found) == 2 and all(row["grad_norm"] > 0 for row in found) and found[0]["loss"] != found[1]["loss"]
    config = json.loads((run.folder / "model/config.json").read_text())
    assert config["vldistill"]["kind"] == "clip_dual" and config["vldistill"]["images"] == 2
    scored = well("evaluate", run.folder).last
    assert scored["accuracy"] == pytest.approx(run.rows("val")[-1]["accuracy"])
    if kind in ("declip", "scratch"):
        well("index", "build", run.folder, "artifacts/data/toy-nlvr2", "--out", tmp_path / "index")
        assert well("evaluate", run.folder, "--index", tmp_path / "index").last["accuracy"] == scored["accuracy"]
    if kind == "clip":
        both = sorted(Path("artifacts/raw").rglob("*.png"))[:2] or sorted(Path("artifacts/raw").rglob("*.jpg"))[:2]
        said = well("predict", run.folder, "--image", both[0], "--image", both[1], "--text", "two red circles").last
        assert said["prediction"] in ("False", "True")
        assert f"from {sources['clip']} (random)" in (run.folder / "log.txt").read_text()


def test_a_converted_declip_ranks_answers_queries_and_learns_by_contrast(sources, world, train, well, tmp_path):
    zero = well("evaluate", sources["declip"], "--data", "artifacts/data/toy-coco", "--split", "test", "--out", tmp_path / "zero")
    assert 0 <= zero.last["ir_r1"] <= zero.last["ir_r10"] <= 1
    well("index", "build", sources["declip"], "artifacts/data/toy-coco", "--out", tmp_path / "index")
    asked = well("index", "query", tmp_path / "index", "a red circle", "--top", "3")
    assert asked.code == 0 and "3" in asked.out
    run = train("finetune", "quickstart_retrieval", *student("declip", sources), "teacher=null", "objective={kind: retrieval}")
    assert all(row["loss/cmc"] > 0 for row in run.losses())
    again = train(
        "finetune",
        "quickstart_retrieval",
        INIT.format(folder=run.folder),
        *SIZES["declip"],
        "teacher=null",
        "objective={kind: retrieval}",
        "--name",
        "again",
    )
    assert "init" in again.manifest["parents"]


@pytest.mark.parametrize(
    "fields, part",
    [
        (("objective={kind: dide}", "teacher={kind: vilt, model: runs/quickstart_teacher}"), "a clip_dual student is a baseline"),
        (("objective={kind: pretrain}",), "a baseline: it is trained by objective {kind: labels}, or retrieval"),
        (("objective={kind: advl}",), "a clip_dual student is a baseline"),
        (
            ("objective={kind: retrieval, attention: cross}", "teacher={kind: vilt, model: runs/quickstart_teacher}"),
            "a clip_dual student has no fusion teacher: set objective.attention=none",
        ),
        (("student.dropout=0.1",), "CLIP has no dropout: a clip_dual student needs student.dropout=0.0"),
        (("student.init=runs/quickstart_teacher",), "student.init brings its own CLIP"),
        (("student.clip.frozen=true",), "unknown key `student.clip.frozen` (only a student of kind clip_vil has it)"),
        (("student.kind=vilt",), "unknown key `student.clip` (only a student of kind clip_dual or clip_vil has it"),
        (
            ("student.clip={}", "student.init=runs/quickstart_teacher"),
            "is a vilt model, from which a clip_dual student cannot start",
        ),
        (("student.clip.model=ViT-B-32", "student.clip.weights=gone"), "open_clip knows no weights 'gone' of it"),
        (("student.clip.model=gone",), "gone: cannot be loaded"),
        (("text.max_length=13",), "has 12 text positions, text.max_length is 13"),
        (("image.size=25",), "image.size 25 is no multiple of CLIP's patch, 8"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(sources, world, command, tmp_path, fields, part):
    chosen = (*student("clip", sources), *fields)
    refused = command("finetune", "--recipe", "quickstart_teacher", "--runs", tmp_path / "runs", *chosen)
    assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "runs").exists()


def test_a_broken_slip_folder_and_a_vocabulary_in_vain_are_refused(sources, world, command, tmp_path):
    (tmp_path / "slip").mkdir()
    (tmp_path / "slip/config.json").write_text('{"model_type": "slip", "sizes": {"width": 64}}')
    refused = command(
        "finetune", "--recipe", "quickstart_teacher", "--runs", tmp_path / "runs", INIT.format(folder=tmp_path / "slip")
    )
    assert refused.code == 2 and "is not a model configuration" in refused.err and "vldistill convert slip" in refused.err
    refused = command("convert", "declip", tmp_path / "x.pth", tmp_path / "out", "--vocab", tmp_path / "vocab.txt")
    assert refused.code == 2 and "--vocab means nothing for declip" in refused.err
