"""A weight or an answer that is NaN or infinite is told at every door: converting, opening, teaching, answering."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_teachers import write_bert, write_clip, write_vit

from vldistill.data.regions.network import whole
from vldistill.errors import InputError, VldistillError
from vldistill.finite import check_outputs, check_weights
from vldistill.recipe.schema.students import official_layouts
from vldistill.teachers.clip import Clip
from vldistill.teachers.unimodal import TEXT, VISION

PICTURE = "artifacts/raw/toy/vqa/train2014/COCO_train2014_000001000000.jpg"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", official_layouts())
def test_convert(kind, bad, tmp_path, command):
    weights = {"good.weight": torch.ones(2), "bad.weight": torch.tensor([[0.0, bad, 1.0]])}
    folder = tmp_path / "official"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save(weights, folder / "pytorch_model.bin")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    vocabulary = (
        ()
        if not official_layouts()[kind].vocabulary
        else ("--vocab", tmp_path / ("official" if kind == "meter" else "vocab.txt"))
    )
    told = command("convert", kind, folder if kind == "oscar" else folder / "pytorch_model.bin", tmp_path / "out", *vocabulary)
    assert told.code == 2 and "1 of 3 numbers of bad.weight are not finite" in told.err
    assert not (tmp_path / "out").exists()


def changed(world: Path, run: str, folder: Path, change) -> Path:
    """A model folder like a run's, of which `change` has altered the weights."""
    shutil.copytree(world / f"runs/{run}/default/seed0/model", folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _one_nan(weights: dict[str, torch.Tensor]) -> None:
    weights[sorted(weights)[-1]].view(-1)[0] = math.nan


def _overflowing(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.startswith("classifier.") and name.endswith("weight")]:
        weights[name] *= 1e38


@pytest.fixture(scope="module")
def models(toy_world, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        f"{name} {what}": changed(toy_world, run, place / f"{name}-{what}", change)
        for name, run in (("fusion", "quickstart_pretrain"), ("pairs", "quickstart_teacher"), ("dual", "quickstart_dide"))
        for what, change in (("nan", _one_nan), ("large", _overflowing))
    }


READERS = {
    "evaluate": "evaluate {dual nan} --data artifacts/data/toy-nlvr2 --out {out}",
    "predict": f"predict {{fusion nan}} --image {PICTURE} --text red?",
    "index build": "index build {dual nan} artifacts/data/toy-nlvr2 --out {out}",
    "bench": "bench {dual nan} --rounds 1 --batch 1 --out {out}",
    "a teacher": "distill -r quickstart_dide teacher.model={pairs nan} --name x --runs {out}",
    "a start": "finetune -r quickstart_teacher student.init={fusion nan} --name x --runs {out}",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_weight_is_told_by_whatever_reads_it(reader, world, models, command, tmp_path):
    line = READERS[reader]
    for name, folder in models.items():
        line = line.replace(f"{{{name}}}", str(folder))
    told = command(*line.replace("{out}", str(tmp_path / "out")).split())
    assert told.code == 2 and "not finite" in told.err
    assert len(told.err.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [
        "evaluate {dual large} --data artifacts/data/toy-nlvr2 --out {out}",
        "evaluate {pairs large} --data artifacts/data/toy-nlvr2 --out {out} --split test --leaderboard {out}.csv",
        "evaluate {fusion large} --data artifacts/data/toy-vqa --out {out}",
        f"predict {{fusion large}} --image {PICTURE} --text red?",
    ],
)
def test_answers_that_overflow_are_told(line, world, models, command, tmp_path):
    for name, folder in models.items():
        line = line.replace(f"{{{name}}}", str(folder))
    told = command(*line.replace("{out}", str(tmp_path / "out")).split())
    assert told.code == 1 and "gives numbers that are not finite for" in told.err and "NaN" not in told.out
    assert len(told.err.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("table", "kind"), [("vision", kind) for kind in VISION] + [("text", kind) for kind in TEXT])
def test_a_teacher(table, kind, tmp_path, monkeypatch):
    write = {"timm": write_vit, "transformers": write_bert}.get(kind)
    if write is not None:
        folder = write(tmp_path / "teacher")
        weights = load_file(folder / "model.safetensors")
        _one_nan(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        teacher = {"vision": VISION, "text": TEXT}[table][kind](str(folder), None, "last")
    else:
        clip = Clip("open_clip", str(write_clip(tmp_path / "teacher")), "random")
        network = clip._loaded[0]
        network.visual.conv1.weight.data[0] = math.inf
        teacher = {"vision": VISION, "text": TEXT}[table][kind](clip).clip
    with pytest.raises(InputError, match="not finite"):
        _ = teacher.network


def test_a_resnet_file():
    own = {"conv1.weight": torch.zeros(2)}
    with pytest.raises(InputError, match=r"file.pth: 2 of 2 numbers of conv1.weight are not finite"):
        whole(own, {"conv1.weight": torch.full((2,), math.inf)}, "file.pth", "a ResNet")


def test_the_guards_themselves():
    check_weights({"a": torch.ones(3), "ids": torch.arange(3)}, "x")
    check_outputs(torch.ones(2, 3), ["a", "b"])
    with pytest.raises(InputError, match="1 of 3 numbers of b are not finite; so are parts of 1 more weights"):
        check_weights({"a": torch.ones(1), "b": torch.tensor([1, math.nan, 2]), "c": torch.tensor(math.inf)}, "x")
    with pytest.raises(VldistillError, match="not finite for b, c") as caught:
        check_outputs(torch.tensor([[1.0, 2], [math.nan, 1], [math.inf, 0]]), ["a", "b", "c"], "run")
    assert caught.value.exit_code == 1
