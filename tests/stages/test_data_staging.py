"""Packed images and regions are read from copies on the node's own disk, and give the same run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_oscar import write_features

from vldistill.data.artifact import open_data, stage_images
from vldistill.data.regions.store import RegionStore
from vldistill.store.staging import staged_store
from vldistill.store.uses import REGIONS


@pytest.fixture
def disk(tmp_path, monkeypatch):
    place = tmp_path / "disk of the node"
    place.mkdir()
    monkeypatch.setenv("VLDISTILL_STAGE", str(place))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return place / f"vldistill-{os.getuid()}"


@pytest.fixture
def packed(world, well, tmp_path) -> Path:
    well("prepare", "vqa", "--raw", "artifacts/raw/toy/vqa", "--out", tmp_path / "vqa", "--shards", "7")
    return tmp_path / "vqa"


def test_a_run_reads_the_copy_and_is_the_same(packed, disk, train, well, monkeypatch):
    fields = ("quickstart_pretrain", f"data.path={packed}", "data.workers=1")
    staged = train("finetune", *fields, "--name", "staged")
    monkeypatch.delenv("VLDISTILL_STAGE")
    plain = train("finetune", *fields, "--name", "plain")
    assert staged.losses() == plain.losses()
    [copy] = (path for path in disk.iterdir() if path.is_dir())
    assert copy.name.startswith("vqa-shards-")
    assert {path.name: path.stat().st_size for path in copy.iterdir()} == {
        path.name: path.stat().st_size for path in (packed / "shards").iterdir()
    }
    # Where the data lie is nothing that a run depends on.
    assert staged.manifest["parents"] == plain.manifest["parents"] and staged.manifest["data"] == plain.manifest["data"]


def test_images_come_from_the_copy(packed, disk):
    told: list[str] = []
    data = open_data(packed)
    copied = stage_images(data, told.append)
    assert copied.images.folder.parent == disk and copied.fingerprint == data.fingerprint and "were copied in" in told[0]
    path = next(iter(data.records("train"))).images[0]
    for tar in (packed / "shards").glob("*.tar"):
        tar.unlink()
    assert copied.images.read(path)[:2] in (b"\x89P", b"\xff\xd8")


def test_data_prepared_anew_do_not_touch_the_copy_that_others_read(packed, disk, well):
    first = stage_images(open_data(packed), print)
    well("prepare", "vqa", "--raw", "artifacts/raw/toy/vqa", "--out", packed, "--shards", "5", "--overwrite")
    second = stage_images(open_data(packed), print)
    path = next(iter(second.records("train"))).images[0]
    assert first.images.folder != second.images.folder and first.images.read(path) == second.images.read(path)


def test_image_files_are_told_to_stay(world, disk):
    told: list[str] = []
    data = open_data(Path("artifacts/data/toy-vqa"))
    assert stage_images(data, told.append) is data and not disk.exists()
    assert told == ["images of artifacts/data/toy-vqa are read where they are: it was prepared without --shards"]


def test_regions_are_read_from_a_copy_that_the_model_does_not_name(world, disk, well, train, tmp_path, monkeypatch):
    shutil.copytree(world / "artifacts/raw/toy/vqa", tmp_path / "artifacts/raw/toy/vqa")
    write_features(tmp_path, tmp_path / "features")
    store = tmp_path / "regions"
    well("prepare", "regions", "import", "--raw", tmp_path / "features", "--out", store, "--boxes", "1,100")
    fields = (
        "quickstart_pretrain",
        f"regions={{path: {store}, most: 3}}",
        "text.max_length=30",
        "student={kind: uniter, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}, dropout: 0.0}",
    )
    staged = train("finetune", *fields, "--name", "staged")
    assert json.loads((staged.folder / "model/config.json").read_text())["vldistill"]["regions"] == str(store)
    place = staged_store(store, REGIONS, print)
    assert place.parent == disk and len(RegionStore(place)) == len(RegionStore(store))
    monkeypatch.delenv("VLDISTILL_STAGE")
    assert staged_store(store, REGIONS, print) == store
    assert train("finetune", *fields, "--name", "plain").losses() == staged.losses()
