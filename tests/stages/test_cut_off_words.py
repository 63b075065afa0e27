"""Texts that are longer than a text teacher reads: the words that it cut off are compared by no teacher, cached or live."""

from __future__ import annotations

import json

import pytest
import torch
from advl_worlds import advl_recipe, write_teachers
from PIL import Image

from vldistill.data.loading import make_loader
from vldistill.recipe.load import load_recipe
from vldistill.training.build import build_parts
from vldistill.training.inputs import make_batches
from vldistill.training.stages import for_stage

LONG = "circle square triangle hexagon pentagon rectangle rhombus cylinder pyramid sphere cube octagon"
"""Of more tokens than the towers' context of 12."""
RECIPE = """
objective: {kind: advl, answer_loss: softmax, words: 12, itm_fraction: 0.0}
optim: {lr: 1e-3}
train: {steps: 2, batch: {pairs: 4}, eval_pairs: 4, log_every: 1}
"""


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory, well):
    folder = tmp_path_factory.mktemp("long")
    raw = folder / "raw"
    raw.mkdir()
    for number in range(4):
        Image.new("RGB", (36, 36), (60 * number, 0, 0)).save(raw / f"{number}.png")
    for split in ("train", "val"):
        rows = [{"image": f"{n % 4}.png", "text": f"{LONG} {n}", "answers": [("yes", "no")[n % 2]]} for n in range(8)]
        (raw / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_teachers(folder / "teachers")
    recipe = advl_recipe(RECIPE, data=folder / "data", teachers=folder / "teachers").replace("max_length: 16", "max_length: 60")
    text = f"{{kind: open_clip, model: {folder}/teachers/clip, weights: random}}"
    recipe = recipe.replace(f"{{kind: transformers, model: {folder}/teachers/bert}}", text)
    (folder / "long.yaml").write_text(recipe + "cache: {words: 12}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "jsonl", "--raw", raw, "--out", "data", "--min-count", "1")
    return folder


@pytest.mark.parametrize("mode", ["live", "auto"])
def test_cut_off_words_add_nothing(long_texts, well, monkeypatch, mode):
    monkeypatch.chdir(long_texts)
    run = well("distill", "-r", "long.yaml", f"cache.mode={mode}", "--name", mode).last["run"]
    assert run
    recipe = for_stage("distill", load_recipe("long.yaml", [f"cache.mode={mode}"]))
    parts = build_parts(recipe)
    batch = next(iter(make_loader(parts.train, make_batches(recipe, parts.train))))
    distances = parts.objective.distances
    with torch.no_grad():
        output, taught = parts.student(batch, distances.capture), parts.teacher(batch, distances.capture)
        rows = {name: (own, other, valid) for own, other, valid, name in distances.pairs(output, taught, batch)}
    own, other, valid = rows["words"]
    # CLIP's ten tokens between start and end reach neither the last of the shapes nor the number; the student reads all.
    chosen = taught.word_index >= 0
    there = other.abs().sum(-1) > 0
    assert (chosen & ~there).any() and (valid == (chosen & there)).all()
    assert (own[chosen].abs().sum(-1) > 0).all()
    found = distances(output, taught, batch)["words"]
    mapped = torch.nn.functional.normalize(distances.maps["words"](own).float(), dim=-1)
    apart = (mapped - torch.nn.functional.normalize(other.float(), dim=-1)).abs().sum(-1)
    expected = torch.stack([row[keep].sum() for row, keep in zip(apart, chosen & there, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_cached_and_live_say_the_same(long_texts):
    curves = [
        [
            json.loads(line).get("loss/words")
            for line in (long_texts / f"runs/long/{name}/seed0/metrics.jsonl").read_text().splitlines()
        ]
        for name in ("live", "auto")
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3) if None not in curves[0] else curves[0] == curves[1]
