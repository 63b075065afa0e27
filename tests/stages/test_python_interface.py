"""`vldistill.load`: the README's lines, run as they stand there; vectors; refusals; and no torch at import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vldistill
from vldistill.errors import InputError

README = Path(__file__).resolve().parent.parent.parent / "README.md"
PICTURE = "artifacts/raw/toy/vqa/train2014/COCO_train2014_000001000000.jpg"
DIDE, TEACHER, VQA, FUSION = (f"runs/quickstart_{name}" for name in ("dide", "teacher", "pretrain", "fusion"))


def test_the_lines_of_the_readme(toy_world, monkeypatch, tmp_path):
    (block,) = [
        text for text in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M) if "vldistill.load" in text
    ]
    code = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) == 3
    (tmp_path / "runs").symlink_to(toy_world / "runs")
    source = re.search(r'load\("(.*?)"\)', block)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes((toy_world / PICTURE).read_bytes())
    assert (tmp_path / source).exists()
    found: dict = {}
    exec("\n".join(code), found)
    assert found["label"] in found["model"].labels and 0 < found["probability"] <= 1


def test_importing_the_package_is_quick(tmp_path):
    probe = "import sys, vldistill; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)), vldistill.load.__name__)"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == "[] load"


def test_it_answers_as_predict_does(world, well):
    printed = well("predict", VQA, "--image", PICTURE, "--text", "is there a red circle?").last
    model = vldistill.load(VQA)
    first, *others = model.rank(PICTURE, "is there a red circle?", top=len(model.labels))
    assert first == model.answer(Path(PICTURE), "is there a red circle?")
    assert (first.label, first.probability) == (printed["prediction"], pytest.approx(printed["confidence"], abs=1e-4))
    assert sum(one.probability for one in (first, *others)) == pytest.approx(1, abs=1e-5)


def test_vectors_are_those_that_answer(world):
    """The head on the vectors of a pair gives the probabilities of `rank`, in batches and alone."""
    model = vldistill.load(DIDE)
    record = json.loads((world / "artifacts/data/toy-nlvr2/val.jsonl").read_text().splitlines()[0])
    images = [world / "artifacts/raw/toy/nlvr2" / image for image in record["images"]]
    text = " ".join(record["text"])
    left, right = (model.encode_images([image], place=place) for place, image in enumerate(images))
    vector = model.encode_text([text])
    with torch.no_grad():
        logits = model._opened.model.fuse(vector, [left, right])
    sure = dict(model.rank(images, text))
    assert logits.softmax(-1)[0].tolist() == pytest.approx([sure[label] for label in model.labels], abs=1e-5)
    many = model.encode_text([text, "short"] * 20)
    assert many.shape == (40, vector.shape[1]) and torch.allclose(many[38], vector[0], atol=1e-5)
    assert model.encode_images(images * 20).shape == (40, left.shape[1])


def test_what_it_refuses(world):
    dual, fusion = vldistill.load(DIDE), vldistill.load(TEACHER)
    for call, reason in [
        (lambda: vldistill.load("runs/nobody"), "runs/nobody: no such model"),
        (lambda: dual.answer(PICTURE, "hi"), "takes 2 image"),
        (lambda: dual.answer([PICTURE, "no.jpg"], "hi"), "no.jpg: no such file"),
        (lambda: dual.answer([PICTURE] * 2), "reads a text"),
        (lambda: dual.answer([PICTURE] * 2, "hi", choices=["a", "b"]), "has answers of its own"),
        (lambda: fusion.encode_text(["hi"]), "has no vectors of images or texts alone"),
        (lambda: dual.encode_images([]), "nothing to encode"),
        (lambda: vldistill.load(FUSION).answer(PICTURE, "hi"), "has no head, so it cannot answer"),
    ]:
        with pytest.raises(InputError, match=reason):
            call()
