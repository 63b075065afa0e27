"""Training and evaluating on shards: the figures of the files, and no need of them any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

TIMES = {"checksum", "seconds", "source", "data_folder"}  # and what differs between two artifacts of one content


@pytest.fixture
def artifacts(world, well, tmp_path):
    """A function: a toy data set prepared from a copy of its raw files, without and with shards; the copy is then gone."""

    def make(dataset: str) -> tuple[Path, Path]:
        raw = tmp_path / "raw"
        shutil.copytree(world / "artifacts/raw/toy" / dataset, raw)
        plain, sharded = world / f"artifacts/data/toy-{dataset}", tmp_path / "sharded"
        well("prepare", dataset, "--raw", raw, "--out", sharded, "--shards", "7")
        raw.rename(tmp_path / "elsewhere")
        return plain, sharded

    return make


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if "time" not in key and "per_s" not in key} for row in rows]


@pytest.mark.parametrize("dataset, recipe, workers", [("vqa", "quickstart_pretrain", 0), ("nlvr2", "quickstart_teacher", 2)])
def test_shards_give_the_figures_of_files(artifacts, train, well, tmp_path, dataset, recipe, workers):
    plain, sharded = artifacts(dataset)
    assert fingerprint(plain) == fingerprint(sharded)
    runs = [
        train("finetune", recipe, f"data.path={data}", f"data.workers={count}", "image.augment=randaugment", runs=name)
        for data, count, name in ((plain, 0, "plain"), (sharded, workers, "sharded"))
    ]
    assert runs[0].losses() == runs[1].losses() and untimed(runs[0].rows("val")) == untimed(runs[1].rows("val"))
    results = []
    for run, count in zip(runs, (0, workers), strict=True):
        well("evaluate", run.folder, "--workers", str(count))
        metrics = json.loads((run.folder / "eval/val/metrics.json").read_text())
        results.append(
            (
                {key: value for key, value in metrics.items() if key not in TIMES},
                (run.folder / "eval/val/predictions.jsonl").read_bytes(),
            )
        )
    assert results[0] == results[1]
    # What was trained on the files is evaluated on the shards, which are the same data.
    well("evaluate", runs[0].folder, "--data", sharded, "--out", tmp_path / "crossed")
    assert (tmp_path / "crossed/predictions.jsonl").read_bytes() == results[0][1]


def fingerprint(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["fingerprint"]


def test_a_damaged_shard_ends_a_run_with_one_line(artifacts, command, few, tmp_path):
    _, sharded = artifacts("vqa")
    for tar in (sharded / "shards").glob("train-*.tar"):
        data = bytearray(tar.read_bytes())
        data[len(data) - 2000] ^= 1  # within the last image
        tar.write_bytes(data)
    result = command(
        "finetune",
        "-r",
        "quickstart_pretrain",
        f"data.path={sharded}",
        "--runs",
        tmp_path / "runs",
        *few,
        "train.batch.pairs=400",
    )
    assert result.code == 2 and result.err.count("\n") == 1 and "Traceback" not in result.err
    assert "differs from what was packed" in result.err and f"{sharded}/shards/train-" in result.err and ".0.jpg: " in result.err


def test_region_features_are_computed_from_shards(artifacts, well, monkeypatch, tmp_path):
    from vldistill.data.regions import extract
    from vldistill.data.regions.store import RegionStore

    monkeypatch.setattr(extract, "SHORT_SIDE", 64)
    stores = []
    for place, data in zip(("plain", "sharded-regions"), artifacts("vqa"), strict=True):
        torch.manual_seed(0)  # of the random weights
        words = ("--data", data, "--out", tmp_path / place, "--weights", "random", "--limit", "2", "--grid", "2")
        well("prepare", "regions", "compute", *words)
        stores.append(RegionStore(tmp_path / place))
    assert list(stores[0]) == list(stores[1]) and len(stores[0]) == 2
    assert all((stores[0][image].features == stores[1][image].features).all() for image in stores[0])


def test_lost_shards_are_told_before_anything_is_written(artifacts, command, tmp_path):
    _, sharded = artifacts("vqa")
    (sharded / "shards/val-000000.tar").unlink()
    for words in (
        ("finetune", "-r", "quickstart_pretrain", f"data.path={sharded}", "--runs", tmp_path / "runs"),
        ("evaluate", "runs/quickstart_pretrain", "--data", sharded, "--out", tmp_path / "runs"),
    ):
        refused = command(*words)
        assert refused.code == 2 and refused.err.count("\n") == 1 and not (tmp_path / "runs").exists()
        assert f"{sharded}/shards/val-000000.tar: is named in the manifest but missing" in refused.err
