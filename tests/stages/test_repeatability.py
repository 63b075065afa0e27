"""The same recipe and seed give the same figures, bit for bit, whatever the workers; another seed gives others."""

from __future__ import annotations

from safetensors.torch import load_file

# Two epochs of two batches.
LONGER = ("train.steps=4", "data.limit=32", "train.batch.pairs=16", "image.shift=1", "student.dropout=0.1")


def weights(run):
    return load_file(run.folder / "model/model.safetensors")


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def test_same_seed_same_run(train):
    first, again, other = (
        train("distill", "quickstart_dide", *LONGER, f"train.seed={seed}", runs=name)
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )
    assert len(first.losses()) == 4
    assert first.losses() == again.losses() and first.rows("val") == again.rows("val")
    assert equal(weights(first), weights(again))
    assert first.losses() != other.losses() and not equal(weights(first), weights(other))


def test_workers_change_nothing(train):
    alone, helped = (
        train("distill", "quickstart_dide", *LONGER, f"data.workers={workers}", runs=str(workers)) for workers in (0, 2)
    )
    assert alone.losses() == helped.losses() and alone.rows("val") == helped.rows("val")
    assert equal(weights(alone), weights(helped))


def test_images_kept_in_memory_change_nothing(train):
    kept, read = (train("distill", "quickstart_dide", *LONGER, f"data.memory={kept}", runs=kept) for kept in ("true", "false"))
    assert kept.losses() == read.losses()


def test_logging_and_validating_more_often_changes_nothing(train):
    often = train("distill", "quickstart_dide", *LONGER, "train.validate_every=1", runs="often")
    rarely = train("distill", "quickstart_dide", *LONGER, "train.validate_every=4", runs="rarely")
    assert often.losses() == rarely.losses()
