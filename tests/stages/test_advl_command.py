"""ADVL through the command line: teachers cached or live, two steps, students over patches and over regions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from advl_worlds import advl_recipe, write_teachers
from resumed import curve, weights
from tiny_teachers import write_vit

from vldistill.artifacts import write_manifest
from vldistill.data.artifact import open_data
from vldistill.data.images import ImageFolder
from vldistill.data.loading import make_loader
from vldistill.data.samplers import EpochBatches
from vldistill.errors import InputError
from vldistill.models.base.inputs import visual_input
from vldistill.models.build import load_student
from vldistill.recipe.load import load_recipe
from vldistill.teachers.unimodal import CachedFeatures
from vldistill.training.build import build_parts
from vldistill.training.inputs import make_batches
from vldistill.training.preemption import PREEMPTED
from vldistill.training.stages import for_stage

RECIPE = advl_recipe("""
objective: {kind: advl, answer_loss: softmax}
optim: {lr: 1e-3}
train: {steps: 5, batch: {pairs: 8}, eval_pairs: 32, log_every: 1, validate_every: 3}
""")
REGIONS = """
data: {path: artifacts/data/toy-vcr}
regions: {path: artifacts/regions/toy}
text: {max_length: 60, vocabulary_size: 400}
student: {kind: uniter, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}, dropout: 0.0}
teachers:
  vision: {kind: timm, model: teachers/vit}
  text: {kind: transformers, model: teachers/bert}
objective: {kind: advl}
optim: {lr: 1e-3}
train: {steps: 4, batch: {pairs: 4}, eval_pairs: 16, log_every: 1}
"""


@pytest.fixture(scope="module")
def advl_world(tmp_path_factory, well):
    """A folder with toy VQA and VCR, random regions for the latter, the small teachers, and two recipes."""
    folder = tmp_path_factory.mktemp("advl")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "toy", "--scale", "0.01", "--datasets", "vqa,vcr")
        well("prepare", "vcr", "--raw", "artifacts/raw/toy/vcr", "--out", "artifacts/data/toy-vcr")
        rows = map(json.loads, (folder / "artifacts/data/toy-vcr/regions.jsonl").read_text().splitlines())
        features = folder / "features"
        features.mkdir()
        random = np.random.default_rng(0)
        for row in rows:
            boxes = np.array(row["boxes"], np.float32)[:, :4] / np.array([row["width"], row["height"]] * 2, np.float32)
            sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
            np.savez(
                features / f"{row['image'].rsplit('/', 1)[-1].removesuffix('.jpg')}.npz",
                features=random.normal(size=(len(boxes), 12)).astype(np.float16),
                conf=np.ones(len(boxes), np.float16),
                norm_bb=np.concatenate([boxes, sides], axis=1).clip(0, 1).astype(np.float16),
                soft_labels=np.ones((len(boxes), 3), np.float16),
            )
        well("prepare", "regions", "import", "--raw", "features", "--out", "artifacts/regions/toy", "--boxes", "1,100")
    write_teachers(folder / "teachers")
    (folder / "advl.yaml").write_text(RECIPE)
    (folder / "regions.yaml").write_text(REGIONS)
    return folder


@pytest.fixture
def here(advl_world, monkeypatch, tmp_path):
    """The world as the working folder, with a cache of the test's own."""
    monkeypatch.chdir(advl_world)
    return f"cache.path={tmp_path / 'cache'}"


@pytest.fixture
def any_precision():
    """accelerate keeps a process's first precision until it is told to forget it."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def rows(run, split: str) -> list[dict]:
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


@pytest.mark.parametrize("part", ["answers", "rationales"])
def test_each_part_of_vcr_trains_by_the_defaults(here, well, tmp_path, part):
    """The matched pairs of step 1 are the questions' statements, whichever records are there."""
    result = well(
        "distill",
        "-r",
        "advl.yaml",
        here,
        "data.path=artifacts/data/toy-vcr",
        f"data.part={part}",
        "text.max_length=40",
        "train.batch.pairs=4",
        "train.steps=2",
        "train.validate_every=2",
        "--runs",
        tmp_path / "runs",
        "--name",
        part,
    )
    assert [("loss/itm" in row) for row in rows(result.last["run"], "train")] == [True, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_and_live_teachers_train_alike(here, well, tmp_path, precision, any_precision):
    """To a rounding, since a cache is filled in other batches; and under bf16, too, for the autocast of the student is not the
    teachers': within it the images' distances were 4 in 10,000 apart, even with teachers this small."""
    losses = {}
    for mode in ("auto", "require", "live"):
        result = well(
            "distill",
            "-r",
            "advl.yaml",
            here,
            f"cache.mode={mode}",
            "--runs",
            tmp_path / "runs",
            "--name",
            mode,
            f"train.precision={precision}",
            "teachers.precision=fp32",
        )
        losses[mode] = rows(result.last["run"], "train")
        assert ("to compute" in result.out) == (mode == "auto")
        assert ("teacher: live" in result.out) == (mode == "live")
    for cached, again, live in zip(*losses.values(), strict=True):
        terms = [name for name in cached if name.startswith(("loss", "distance")) or name in "CTEF"]
        assert all(cached[name] == again[name] for name in terms)
        assert {name: cached[name] for name in terms} == pytest.approx({name: live[name] for name in terms}, rel=5e-5)


def test_every_part_is_logged_and_the_first_step_matches(here, well, tmp_path):
    result = well("distill", "-r", "advl.yaml", here, "--runs", tmp_path / "runs", "--name", "a", "objective.itm_fraction=0.4")
    found = rows(result.last["run"], "train")
    common = {
        "loss",
        "loss/vision",
        "loss/text",
        "loss/words",
        "distance/vision",
        "distance/text",
        "distance/words",
        "w",
        "C",
        "C_avg",
        "T",
        "E",
        "F",
    }
    assert all(common <= row.keys() for row in found)
    assert [("loss/itm" in row, "loss/task" in row) for row in found] == [(True, False)] * 2 + [(False, True)] * 3
    for row in found:
        assert row["loss"] == pytest.approx(sum(value for name, value in row.items() if name.startswith("loss/")), rel=1e-5)
    assert found[0]["E"] == pytest.approx(0.25, rel=1e-2) and found[0]["F"] == pytest.approx(0.25, rel=1e-2)  # 1 / sqrt(16)
    assert "the first 2 match images and texts" in result.out
    validations = rows(result.last["run"], "val")
    assert [row["step"] for row in validations] == [2, 3, 5]
    # C_avg is that of the validation before; each step begins with the floor.
    assert found[0]["C_avg"] == 0.5 and found[2]["C_avg"] == 0.5
    right = validations[1].get("confidence_when_right", 0.5)
    assert found[3]["C_avg"] == pytest.approx(right)


def test_teachers_of_one_name_are_told_apart_and_time_is_of_a_kind_of_rows(here, well, tmp_path):
    """Folders of caches end in their teachers' last names, which two may share; an image takes another time than a text."""
    for place, seed in (("a", 7), ("b", 8)):
        write_vit(tmp_path / place / "timm", seed=seed)
    results = [well("cache", "-r", "advl.yaml", here, f"teachers.vision.model={tmp_path / place / 'timm'}") for place in "ab"]
    named = [
        re.search(rf"{re.escape(str(tmp_path / place))}/timm \(weights (\w+)\) in .*: 60 images to compute", result.out)
        for place, result in zip("ab", results, strict=True)
    ]
    listed = re.findall(r"timm-[0-9a-f]{12}\b.*\b([0-9a-f]{8})\W+image\b", well("cache", "--ls", here, "-r", "advl.yaml").out)
    assert sorted(listed) == sorted({found[1] for found in named}) and len(listed) == 2
    progress = re.findall(r"^(.+): ([\d,]+)/([\d,]+) rows, .* s left of them$", results[0].out, re.M)
    computed = re.findall(r"([\d,]+) (images|texts|words) to compute", results[0].out)
    counts = {role: int(count.replace(",", "")) for count, role in computed}
    assert {kind: int(todo.replace(",", "")) for kind, _, todo in progress} == {
        "images": counts["images"],
        "texts": counts["texts"],
        "words": counts["words"],
    } and len(progress) == 3


@pytest.mark.parametrize(
    "overrides, terms",
    [
        (("objective.text=false", "objective.words=0", "objective.confidence=false", "objective.itm_fraction=0"), {"vision"}),
        (("objective.vision=false", "objective.words=0", "objective.confidence=false", "objective.itm_fraction=0"), {"text"}),
        (("objective.words=0", "objective.confidence=false", "objective.itm_fraction=0"), {"vision", "text"}),
        (("objective.words=0", "objective.itm_fraction=0"), {"vision", "text"}),
        (("objective.itm_fraction=0",), {"vision", "text", "words"}),
    ],
)
def test_rows_of_table_1_are_overrides_of_one_recipe(here, well, tmp_path, overrides, terms):
    result = well("distill", "-r", "advl.yaml", here, "--runs", tmp_path / "runs", "train.steps=2", *overrides)
    found = rows(result.last["run"], "train")[-1]
    assert {name.removeprefix("loss/") for name in found if name.startswith("loss/")} == {"task", *terms}
    weighted = "objective.confidence=false" not in overrides
    assert (found["w"] == 1.0) != weighted


def test_the_baseline_is_the_same_recipe_without_teachers(here, well, tmp_path):
    result = well("finetune", "-r", "advl.yaml", here, "--runs", tmp_path / "runs", "train.steps=2")
    found = rows(result.last["run"], "train")[-1]
    assert {name for name in found if name.startswith("loss")} == {"loss", "loss/task"} and not (tmp_path / "cache").exists()


def test_an_anchored_map_says_what_it_explains(here, well, tmp_path):
    result = well("distill", "-r", "advl.yaml", here, "--runs", tmp_path / "runs", "train.steps=2", "objective.map=anchored")
    assert "maps anchored on" in result.out and "variance explained: vision" in result.out
    plain = well("distill", "-r", "advl.yaml", here, "--runs", tmp_path / "runs", "train.steps=2")
    first = [rows(run.last["run"], "train")[0]["distance/text"] for run in (result, plain)]
    assert first[0] < first[1]  # it starts near the teacher


@pytest.mark.parametrize("kind", ["uniter", "vlbert"])
def test_students_over_regions_train_on_vcr_and_are_evaluated(here, well, tmp_path, kind):
    runs = tmp_path / "runs"
    result = well("distill", "-r", "regions.yaml", here, f"student.kind={kind}", "--runs", runs, "--name", kind)
    assert "regions: " in result.out and "WARNING" not in result.out
    score = well("evaluate", result.last["run"]).last
    assert {"q_to_a", "qa_to_r", "q_to_ar"} <= score.keys()


def test_a_model_sees_as_many_regions_later_as_in_training(here, well, tmp_path):
    result = well("finetune", "-r", "regions.yaml", "--runs", tmp_path / "runs", "regions.most=1", "train.steps=1")
    _, spec, _ = load_student(result.last["run"])
    regions = visual_input(spec, ImageFolder(here))
    item = next(item for item in (regions.read(image, None) for image in regions._store) if len(item.features) > 1)
    assert regions.stack([item]).mask.sum() == 1


TOKENS = "train.batch={tokens: 900, accumulate: 2}"


def test_batches_of_tokens_say_their_pairs_and_keep_to_them(here, well, tmp_path):
    arguments = ("-r", "regions.yaml", here, TOKENS, "train.steps=3", "objective.itm_fraction=0.4")
    result = well("distill", *arguments, "--runs", tmp_path / "runs")
    found = re.search(
        r"effective batch: ([\d.]+) \((\d+) to (\d+)\) pairs = batches of at most 900 tokens x 2 accumulated x 1 "
        r"process\(es\); while matching ([\d.]+) \((\d+) to (\d+)\)",
        result.out,
    )
    mean, least, most, *matching = map(float, found.groups())
    assert least <= mean <= most and matching[1] <= matching[0] <= matching[2]
    first, *others = rows(result.last["run"], "train")
    assert matching[1] <= first["pairs"] <= matching[2] and all(least <= row["pairs"] <= most for row in others)


def test_what_a_batch_of_tokens_costs_is_what_the_encoder_reads(here):
    recipe = load_recipe("regions.yaml", [TOKENS])
    parts = build_parts(for_stage("finetune", recipe))
    batches = make_batches(recipe, parts.train)
    widths, choices = [], {record.id: len(record.choices) for record in parts.train.records}
    for batch, dealt in zip(make_loader(parts.train, batches), batches.dealt(), strict=True):
        longest = (batch.text.mask.sum(1) + batch.image_for_each_text(0).mask.sum(1)).max()
        widths.append(int(longest) * len(batch.text.ids))
        assert widths[-1] == max(parts.train.lengths()[index] for index in dealt) * len(dealt)
        assert len(batch.text.ids) == sum(choices[name] for name in batch.ids)  # a question's choices stay together
    assert max(widths) <= 900 and sum(widths) > 0.5 * 900 * len(widths)


def test_epochs_of_token_batches_are_counted(here, well):
    shown = well("finetune", "-r", "regions.yaml", TOKENS, "train.steps=null", "train.epochs=3", "--dry-run").flat
    steps, epochs = re.search(r"optimiser steps (\d+) \(([\d.]+) epochs\)", shown).groups()
    assert int(steps) % 3 == 0 and float(epochs) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(
    "overrides, part",
    [
        (("train.batch={tokens: 90}",), "alone has"),
        (("train.batch.tokens=900",), "give one of `pairs` and `tokens`"),
        ((TOKENS, "optim.lr_scale=per_sample"), "per_sample needs train.batch.pairs"),
        ((TOKENS, "student.kind=vilt"), "train.batch.tokens is for students over regions"),
    ],
)
def test_batches_of_tokens_that_cannot_be_are_refused(here, command, tmp_path, overrides, part):
    refused = command("finetune", "-r", "regions.yaml", "--runs", tmp_path / "runs", *overrides)
    assert refused.code == 2 and part in refused.err and len(refused.err.splitlines()) == 1, refused.err
    assert not (tmp_path / "runs").exists()


def test_a_run_replaces_runs_only(here, well, command, tmp_path):
    folder = tmp_path / "runs/regions/a/seed0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"stage": "regions"}')
    refused = command("finetune", "-r", "regions.yaml", "--runs", tmp_path / "runs", "--name", "a", "--overwrite")
    assert refused.code == 2 and "is an artifact of `regions`" in refused.err and (folder / "manifest.json").exists()


def test_villa_is_uniter_with_perturbed_passes(here, well, tmp_path):
    result = well("distill", "-r", "regions.yaml", here, "--runs", tmp_path / "runs", "adversarial.image=true")
    found = rows(result.last["run"], "train")
    # Step 1 is trained without.
    assert ["loss/adversarial" in row for row in found] == [False, True, True, True] and found[-1]["loss/adversarial"] > 0


def test_a_converted_student_is_warned_of_other_features(here, well, tmp_path, advl_world):
    well("finetune", "-r", "regions.yaml", "--runs", tmp_path / "runs", "--name", "a", "train.steps=1")
    model = tmp_path / "runs/regions/a/seed0/model"
    config = json.loads((model / "config.json").read_text())
    config["vldistill"]["official"] = True
    (model / "config.json").write_text(json.dumps(config))
    (model.parent / "manifest.json").unlink()  # a model folder by itself, as a converted one is
    store = advl_world / "artifacts/regions/toy/manifest.json"
    before = store.read_text()
    arguments = ("finetune", "-r", "regions.yaml", f"student.init={model}", "--runs", tmp_path / "runs", "--dry-run")
    assert "WARNING" not in well(*arguments).flat
    try:
        write_manifest(store.parent, {**json.loads(before), "features": "resnet101.a1_in1k"})
        assert "WARNING: the student's checkpoint was trained on a detector's features" in well(*arguments).flat
    finally:
        store.write_text(before)


# --- the cache command ----------------------------------------------------------------------------------------------------


def test_cache_builds_once_and_lists_and_verifies(here, well, command, tmp_path):
    first = well("cache", "-r", "advl.yaml", here).last
    again = well("cache", "-r", "advl.yaml", here)
    assert first["missing"] == again.last["missing"] == 0 and "to compute" not in again.out and len(first["caches"]) == 3
    assert "complete" in well("cache", "--ls", "-r", "advl.yaml", here).out
    verified = well("cache", "-r", "advl.yaml", here, "--verify").out
    assert verified.count("0 fault(s)") == 3 and verified.count("smallest cosine 1.000000") == 3
    shard = next((tmp_path / "cache").glob("vit-*/shard-*.h5"))
    data = bytearray(shard.read_bytes())
    data[-20] ^= 1
    shard.write_bytes(data)
    broken = command("cache", "-r", "advl.yaml", here, "--verify")
    assert broken.code == 1 and "1 fault(s) found" in broken.err and shard.name in broken.out
    refused = command("distill", "-r", "advl.yaml", here, "--runs", tmp_path / "runs")
    assert refused.code == 2 and shard.name in refused.err and len(refused.err.splitlines()) == 1


def test_writers_of_an_array_each_do_their_part(here, well, tmp_path):
    missing = [well("cache", "-r", "advl.yaml", here, "--shard", f"{part}/3").last["missing"] for part in (2, 0, 1)]
    assert missing[0] > missing[1] > missing[2] == 0
    assert well("distill", "-r", "advl.yaml", here, "cache.mode=require", "--runs", tmp_path / "runs").last["run"]


def test_swapped_pairs_of_step_1_find_their_rows(here, well):
    well("cache", "-r", "advl.yaml", here, "--limit", "40")
    parts = build_parts(load_recipe("advl.yaml", [here, "data.limit=40"]))
    batch = next(iter(make_loader(parts.matching.train, EpochBatches(len(parts.matching.train), 16, seed=0))))
    pairs, arranged = (
        [(source.images[0], source.sentences[0]) for source in sources]
        for sources in (batch.sources, parts.matching.objective.prepare_batch(batch).sources)
    )
    features, swapped = parts.teacher.features, sorted(set(arranged) - set(pairs))
    assert isinstance(features, CachedFeatures) and len(swapped) > 16
    assert len(features.images([path for path, _ in arranged])) == len(features.sentences([text for _, text in arranged])) == 48
    # A word's relevance depends on the image; a mismatch is never asked for it.
    assert len(features.words(pairs, 2)[0]) == 16
    with pytest.raises(InputError, match="lacks"):
        features.words(swapped, 2)


def test_a_partial_cache_is_refused_by_count_and_records_or_completed(here, well, command, tmp_path):
    data = open_data(Path("artifacts/data/toy-vqa"))
    records = [record for record in data.records("train") if data.vocabulary.knows(record.answers)]
    kept = len(records) * 9 // 10
    well("cache", "-r", "advl.yaml", here, "--limit", kept)
    images = {path: record.id for record in reversed(records) for path in record.images}  # and the first record of each
    known = {path for record in data.records("train")[:kept] for path in record.images}
    missing = [record for path, record in reversed(images.items()) if path not in known]
    arguments = ("distill", "-r", "advl.yaml", here, "train.steps=1", "--runs", tmp_path / "runs")
    refused = command(*arguments, "cache.mode=require")
    expected = f"lacks {len(missing)} of {len(images)} images, of records {', '.join(missing[:3])} first"
    assert len(missing) > 3 and refused.code == 2 and expected in refused.err, refused.err
    assert "vldistill cache --recipe advl" in refused.err and not (tmp_path / "runs").exists()
    completed = well(*arguments)
    assert f"{len(missing)} images to compute, {len(images) - len(missing)} there" in completed.out


def test_dry_runs_write_nothing(here, well, tmp_path):
    assert "missing" in well("cache", "-r", "advl.yaml", here, "--dry-run").flat
    assert "ADVL: vision, text, 2 word(s)" in well("distill", "-r", "advl.yaml", here, "--dry-run").flat
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "overrides, part",
    [
        ((), "no such cache"),
        (("teachers.text.layer=1",), "layer is last there, 1 is asked for"),
        (("cache.words=3",), "most is 2 there, 3 is asked for"),
        (("data.train=val",), "lacks"),
        (("objective.words=5",), "objective.words is 5, the cache keeps 2"),
        (("objective.layers.text=7",), "has 2 layers"),
        (("teachers.vision=null",), "needs `teachers.vision`"),
        (("teachers.text.model=nowhere/at/all",), "nowhere/at/all"),
        (("adversarial.steps=2",), "for a uniter student"),
        (("student={kind: uniter}",), "needs `regions`"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(here, well, command, tmp_path, overrides, part):
    if overrides and part != "no such cache":
        well("cache", "-r", "advl.yaml", here)
    refused = command("distill", "-r", "advl.yaml", here, "cache.mode=require", "--runs", tmp_path / "runs", *overrides)
    assert refused.code == 2 and part in refused.err and len(refused.err.splitlines()) == 1, refused.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments, part",
    [
        (("--shard", "3/3"), "is not i/n"),
        (("--shard", "x"), "is not i/n"),
        (("--ls", "--verify"), "three things"),
    ],
)
def test_options_of_cache_are_judged(here, command, arguments, part):
    refused = command("cache", "-r", "advl.yaml", here, *arguments)
    assert refused.code == 2 and part in refused.err


def test_live_teachers_run_in_the_precision_of_the_recipe(here, well, tmp_path):
    """bf16 teachers say nearly the same as fp32 ones, and not quite: the field reaches them."""
    live = (
        "-r",
        "advl.yaml",
        "cache.mode=live",
        "train.steps=1",
        "objective.itm_fraction=0",
        "objective.confidence=false",
        "--runs",
        tmp_path / "runs",
    )
    full = well("distill", *live, "teachers.precision=fp32", "--name", "full").last["run"]
    half = well("distill", *live, "teachers.precision=bf16", "--name", "half").last["run"]
    [one], [other] = rows(full, "train"), rows(half, "train")
    assert one["distance/text"] == pytest.approx(other["distance/text"], rel=0.02)
    assert one["distance/text"] != other["distance/text"]


@pytest.mark.parametrize(
    "recipe, fields, step",
    [
        ("advl.yaml", ("objective.itm_fraction=0.4",), 1),
        ("advl.yaml", ("objective.itm_fraction=0.4",), 2),
        ("advl.yaml", ("objective.itm_fraction=0.4", "objective.map=anchored"), 4),
        ("regions.yaml", ("adversarial.image=true", "optim.kind=sgd", "optim.momentum=0.9"), 3),
    ],
)
def test_what_was_told_to_leave_goes_on_bit_by_bit(here, command, well, leaving, tmp_path, recipe, fields, step):
    """In either of ADVL's steps, at the border between them, with anchored maps, and between VILLA's passes."""
    arguments = ("distill", "-r", recipe, here, *fields, "train.log_every=2", "--name", "a")
    whole = Path(well(*arguments, "--runs", tmp_path / "whole").last["run"])
    with leaving(step):
        assert command(*arguments, "--runs", tmp_path, "--resume", "auto").code == PREEMPTED
    told = well(*arguments, "--runs", tmp_path, "--resume", "auto")
    assert f"going on after step {step}" in told.out
    run = Path(told.last["run"])
    assert curve(run) == curve(whole) and weights(run) == weights(whole)
