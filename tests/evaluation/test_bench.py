"""`bench` at toy sizes: its rows, the FLOP limit beside each, one text pass for two images, and the command."""

from __future__ import annotations

import json
import math

import pytest
import torch

from vldistill.evaluation import bench, cost
from vldistill.evaluation.bench import GROUPS, Setting, as_json, make_batch
from vldistill.evaluation.bench_rows import RetrievalSize, retrieval_rows
from vldistill.models.vilt.model import EncoderConfig, ViltDual, ViltEncoder

TINY = EncoderConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=32,
    patch_size=8,
    max_position_embeddings=20,
)
LENGTHS, PATCHES = (12, 5), 12


def setting(precision: str = "fp32") -> Setting:
    return Setting(TINY, (3, 4), 2, LENGTHS, precision, torch.device("cpu"), 1)


@pytest.fixture
def passes(monkeypatch) -> dict[str, int]:
    """Counts the calls of each way through the encoder."""
    counts = dict.fromkeys(("encode_text", "encode_image", "encode_pair"), 0)
    for name in counts:
        original = getattr(ViltEncoder, name)

        def counting(self, *arguments, name=name, original=original, **more):
            counts[name] += 1
            return original(self, *arguments, **more)

        monkeypatch.setattr(ViltEncoder, name, counting)
    return counts


@pytest.mark.parametrize("images, group", [(1, "one image"), (2, "two images")])
def test_rows_and_their_limits(passes, images, group):
    rows = {(row.variant, row.tokens): row for row in bench.speed_rows(setting(), images=images)}
    fusion, image = (images * count for count in (cost.fusion_flops(12, PATCHES, TINY), cost.image_flops(PATCHES, TINY)))
    text = {tokens: cost.text_flops(tokens, TINY) + images * cost.fuse_flops(TINY) for tokens in LENGTHS}
    limits = {
        ("fusion, transformers", 12): 1,
        ("fusion, ours", 12): 1,
        ("dual, online", 12): fusion / (text[12] + image),
        ("dual, encoding images", 12): fusion / image,
        ("dual, images cached", 12): fusion / text[12],
        ("dual, images cached", 5): fusion / text[5],
    }
    assert {key: row.limit for key, row in rows.items()} == pytest.approx(limits)
    reference = rows["fusion, transformers", 12]
    for row in rows.values():
        assert row.group == group and (row.batch, row.precision) == (2, "fp32")
        assert 0 < row.seconds <= row.p50 <= row.p95 and row.speedup == pytest.approx(reference.seconds / row.seconds)
    assert reference.speedup == 1
    # A warm-up, a round and a look at the memory: fusion reads the text with every image, the dual encoder once.
    assert passes == {"encode_pair": 3 * images, "encode_text": 3 * (1 + len(LENGTHS)), "encode_image": (1 + 3 + 3) * images}


def test_the_pair_rows_are_those_of_two_images():
    assert {(row.group, row.variant, row.tokens, row.limit) for row in bench.pair_rows(setting())} == {
        (row.group, row.variant, row.tokens, row.limit) for row in bench.speed_rows(setting(), images=2)
    }


def test_the_text_tower_runs_once_for_two_images(passes):
    student = ViltDual(EncoderConfig(**{**TINY.to_dict(), "modality_type_vocab_size": 3}), images=2, classes=2)
    output = student(make_batch(setting(), 5, images=2))
    assert passes == {"encode_text": 1, "encode_image": 2, "encode_pair": 0}
    assert output.logits.shape == (2, 2) and len(output.views) == 2


def test_cached_images_give_the_answers_of_the_whole_student():
    student = ViltDual(EncoderConfig(**{**TINY.to_dict(), "modality_type_vocab_size": 3}), images=2, classes=2).eval()
    batch = make_batch(setting(), 5, images=2)
    cached = [student.encode_image(image, place) for place, image in enumerate(batch.images)]
    assert torch.equal(student.fuse(student.encode_text(batch.text), cached), student(batch).logits)


def test_rows_of_capturing_and_of_training():
    captured = bench.capture_rows(setting())
    assert [row.variant for row in captured] == [
        "inference, plain",
        "inference, last q and k",
        "training, plain",
        "training, last q and k",
    ]
    assert [row.speedup == 1 for row in captured] == [True, False, True, False] and all(row.limit is None for row in captured)
    alone, taught = bench.step_rows(setting())
    assert (alone.variant, taught.variant) == ("student alone", "with its teacher")
    own = 3 * (cost.text_flops(12, TINY) + cost.image_flops(PATCHES, TINY) + cost.fuse_flops(TINY))
    assert alone.limit == 1 and taught.limit == pytest.approx(own / (own + cost.fusion_flops(12, PATCHES, TINY)))


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_runs_in_bfloat16(group):
    rows = GROUPS[group](setting("bf16"))
    assert rows and all(row.precision == "bf16" and row.seconds > 0 for row in rows)
    assert json.loads(json.dumps(as_json(rows, "CPU")))["rows"][0]["group"] == rows[0].group


def test_the_rows_of_retrieval(passes):
    rows = retrieval_rows(setting(), RetrievalSize(images=3, texts=7, pairs=5))
    assert [row.variant for row in rows] == [
        "fusion, every pair, from 5",
        "dual, end to end",
        "dual, encoding images",
        "dual, encoding texts",
        "dual, scores and ranks",
    ]
    reading, whole, *parts = rows
    pair, image, text = (cost.fusion_flops(12, PATCHES, TINY), cost.image_flops(PATCHES, TINY), cost.text_flops(12, TINY))
    needed = [21 * pair, 3 * image + 7 * text + 2 * 21 * 16, 3 * image, 7 * text, 2 * 21 * 16]
    assert [row.limit for row in rows] == pytest.approx([21 * pair / flop for flop in needed])
    assert whole.seconds == pytest.approx(sum(row.seconds for row in parts)) and reading.speedup == 1
    assert all(row.speedup == pytest.approx(reading.seconds / row.seconds) and row.p50 is None for row in rows)
    # Batches of 2, the last one short, and one more of each to warm up; of the pairs, 3 before and 2 after.
    assert passes == {"encode_pair": 1 + 2 + 1 + 1, "encode_image": 1 + 2, "encode_text": 1 + 4}


def test_the_limit_at_the_papers_size():
    config = EncoderConfig()
    pairs, texts = 1000 * 5000, 5000 * cost.text_flops(40, config) + 2 * 1000 * 5000 * 768
    dual = 1000 * cost.image_flops(240, config) + texts
    assert pairs * cost.fusion_flops(40, 240, config) / dual == pytest.approx(3298, abs=1)


def test_inputs_are_the_same_each_time_and_without_padding():
    one, other = make_batch(setting(), 5, images=2), make_batch(setting(), 5, images=2)
    assert torch.equal(one.text.ids, other.text.ids) and torch.equal(one.images[1].patches, other.images[1].patches)
    assert one.text.mask.all() and all(image.mask.all() and image.uniform for image in one.images)
    first, second = (image.patches for image in one.images)
    assert first.shape == (2, PATCHES, 3 * 8 * 8) and not torch.equal(first, second)


def few_rows(result) -> dict:
    last = result.last
    assert set(last) == {"device", "speedup"} and last["device"].startswith("CPU")
    assert all(value > 0 and math.isfinite(value) for value in last["speedup"].values())
    return last["speedup"]


def test_the_command_on_a_student_of_two_images(world, well, tmp_path):
    result = well(
        "bench",
        "runs/quickstart_dide",
        "--batch",
        "2,3",
        "--rounds",
        "1",
        "--length",
        "16,8",
        "--rows",
        "speed",
        "--out",
        tmp_path / "bench.json",
    )
    assert set(few_rows(result)) == {f"two images/fp32/batch{batch}/text{tokens}" for batch in (2, 3) for tokens in (16, 8)}
    written = json.loads((tmp_path / "bench.json").read_text())
    assert set(written) >= {"device", "torch", "rows"}
    cached = [row for row in written["rows"] if row["variant"] == "dual, images cached"]
    assert len(cached) == 4 and all(row["limit"] > 1 and row["speedup"] > 0 for row in cached)
    assert "ratio in FLOP" in result.out and "p95 s" in result.out and "36x36 pixels, 9 patches" in result.out


def test_the_command_on_a_student_of_one_image(world, well, few, tmp_path):
    run = well(
        "distill",
        "-r",
        "quickstart_dide",
        "data.path=artifacts/data/toy-vqa",
        "teacher.model=runs/quickstart_pretrain",
        "objective.answer_loss=softmax",
        "--runs",
        tmp_path,
        *few,
    ).last["run"]
    found = few_rows(well("bench", run, "--batch", "2", "--rounds", "1", "--length", "99,8", "--rows", "speed,step,capture"))
    assert set(found) == {"one image/fp32/batch2/text16", "one image/fp32/batch2/text8"}  # no text is longer than the model's


def test_a_dry_run_measures_nothing(world, well, monkeypatch):
    monkeypatch.setattr(bench, "measure", None)
    shown = well("bench", "--dry-run", "--batch", "32,256", "--precision", "fp32,bf16").flat
    assert "384x640 pixels, 240 patches" in shown and "256, 32" in shown and "fp32, bf16" in shown


@pytest.mark.parametrize("capability, noted", [("AVX2", True), ("AVX512", False)])
def test_a_precision_that_the_processor_lacks_is_noted(well, monkeypatch, capability, noted):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert ("no instructions for bf16" in well("bench", "--dry-run", "--precision", "fp32,bf16").flat) == noted
    assert "no instructions" not in well("bench", "--dry-run").flat


@pytest.mark.gpu
def test_the_command_on_a_gpu(world, well):
    found = well("bench", "runs/quickstart_dide", "--gpu", "--batch", "2", "--rounds", "2", "--rows", "speed").last
    assert "CPU" not in found["device"]
