"""`prepare regions --skip-broken` and `--faults`: one broken image of many, for every format that is imported and every network
that computes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import region_files as files
import torch
from hints import options_of

from vldistill.artifacts import read_manifest
from vldistill.data.prepare_regions import FORMATS, NETWORKS
from vldistill.data.regions import extract as extraction
from vldistill.data.regions import importers
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.store import RegionStore, RegionWriter
from vldistill.data.sources.table import SOURCES
from vldistill.store.uses import REGIONS

GOOD = [files.make(str(number)) for number in (1, 2, 3)]
BAD = files.make("7")
TINY = ImageNetwork(blocks=(1, 1, 1, 1), width=4, short_side=48, long_side=96)


def _npz(folder: Path) -> Path:
    files.write_npz(folder, [*GOOD, BAD])
    (folder / "coco_train2014_000000000007.npz").write_bytes(b"PK\3\4")
    return folder


def _lmdb(folder: Path) -> Path:
    return files.write_lmdb(folder, GOOD, extra={"nlvr2_7.npz": b"\xc1"})


def _tsv(folder: Path) -> Path:
    rows = [files.bottom_up_row(image) for image in GOOD]
    return files.write_tsv(folder.with_suffix(".tsv"), [rows[0], ["7", "640"], *rows[1:]])


def _oscar(folder: Path) -> Path:
    table = {image.name: torch.from_numpy(files.oscar_rows(image)) for image in GOOD} | {"7": torch.full((4, 14), np.nan)}
    torch.save(table, folder.with_suffix(".pt"))
    return folder.with_suffix(".pt")


def _vlbert(folder: Path) -> Path:
    folder.mkdir()
    for image in [*GOOD, BAD]:
        (folder / f"{image.name}.json").write_text(json.dumps(files.vlbert_json(image)))
    (folder / "7.json").write_text("{")
    return folder


IMPORTED: dict[str, Callable[[Path], Path]] = {
    "npz": _npz,
    "uniter-lmdb": _lmdb,
    "tsv": _tsv,
    "oscar": _oscar,
    "vl-bert": _vlbert,
}


def faults_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def leaves_out_one_of_four(command, well, words: list, folder: Path, told: str) -> RegionStore:
    """All images are refused for the one; so they are at a share below a quarter of them."""
    out, faults = folder / "out", folder / "faults.jsonl"
    refused = command(*words, "--out", out)
    assert refused.code == 2 and told in refused.err and len(refused.err.splitlines()) == 1
    refused = command(*words, "--out", out, "--skip-broken", "24%", "--faults", faults)
    assert refused.code == 2 and "25.0% are broken, over the 24.0% of --skip-broken" in refused.err
    assert f"all 1 faults are in {faults}" in refused.err and len(faults_of(faults)) == 1 and not out.exists()
    shown = well(*words, "--out", out, "--skip-broken", "25%", "--faults", faults).flat
    assert re.search(r"left out, being broken │ +1 │", shown) and [told in row["fault"] for row in faults_of(faults)] == [True]
    manifest = read_manifest(out, REGIONS.stage, make_it="")
    assert manifest["left_out"] == {"lines": 0, "images": 1, "records": 1, "kept": 3} and manifest["images"] == 3
    assert "up to date" in well(*words, "--out", out, "--skip-broken", "25%").out
    assert command(*words, "--out", out).code == 2  # without it another store is meant
    return RegionStore(out)


@pytest.mark.parametrize("name", FORMATS)
def test_of_every_format_one_broken_image_is_left_out(name, command, well, tmp_path):
    told = {"npz": "no npz file", "uniter-lmdb": "no msgpack map", "tsv": "has 2 columns", "oscar": "not finite"}.get(name, "")
    raw = IMPORTED[name](tmp_path / "raw")
    store = leaves_out_one_of_four(command, well, ["prepare", "regions", "import", "--raw", raw], tmp_path, told)
    assert sorted(store) == ["1", "2", "3"]


def test_an_image_with_one_broken_source_of_two_is_left_out_whole(well, tmp_path):
    """Its detected boxes alone would have lost the annotated ones."""
    raw = files.write_npz(tmp_path / "raw", GOOD)
    for image in GOOD:
        number = int(image.name)
        np.savez(raw / f"vcr_gt_train_{number:012d}.npz", **files.uniter_arrays(image))
        (raw / f"coco_train2014_{number:012d}.npz").rename(raw / f"vcr_train_{number:012d}.npz")
    (raw / "vcr_gt_train_000000000002.npz").write_bytes(b"")
    well("prepare", "regions", "import", "--raw", raw, "--out", tmp_path / "out", "--skip-broken", "40%")
    assert sorted(RegionStore(tmp_path / "out")) == ["1", "3"]
    for name, of in (("img_db/vcr_gt_train", GOOD), ("img_db/vcr_train", [GOOD[0], GOOD[2]])):
        (tmp_path / name).mkdir(parents=True)
        files.write_lmdb(tmp_path / name, of, extra={} if of == GOOD else {"nlvr2_2.npz": b"\xc1"})
    well("prepare", "regions", "import", "--raw", tmp_path / "img_db", "--out", tmp_path / "db", "--skip-broken", "40%")
    assert sorted(RegionStore(tmp_path / "db")) == ["1", "3"]


@pytest.mark.parametrize(
    "name, told",
    [("cut to a third", "is cut off: "), ("cut by a page", "is cut off: 4,096 of"), ("cut to nothing", "is empty (0 bytes)")],
)
def test_a_file_that_is_cut_off_is_no_broken_image(name, told, command, tmp_path):
    """Nor does it end the process, as a read of what is no more there does."""
    raw = files.write_lmdb(tmp_path / "raw", [files.make(str(number), 60, 64) for number in range(1, 40)])
    whole = (raw / "data.mdb").read_bytes()
    kept = {"cut to a third": whole[: len(whole) // 3], "cut by a page": whole[:-4096], "cut to nothing": b""}[name]
    (raw / "data.mdb").write_bytes(kept)
    refused = command("prepare", "regions", "import", "--raw", raw, "--out", tmp_path / "out", "--skip-broken", "100%")
    assert refused.code == 2 and told in refused.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-30]), Path.unlink], ids=["cut", "gone"])
def test_of_every_network_one_broken_image_is_left_out(name, damage, world, command, well, tmp_path, monkeypatch):
    """It is found before features of any are computed."""
    monkeypatch.setattr(extraction, "SHORT_SIDE", 64)
    monkeypatch.setattr(extraction, "LONG_SIDE", 128)
    monkeypatch.setattr(extraction, "ImageNetwork", lambda: TINY)
    raw, data = tmp_path / "raw", tmp_path / "data"
    shutil.copytree("artifacts/raw/toy/vcr", raw)
    well("prepare", "vcr", "--raw", raw, "--out", data)
    rows = [json.loads(line)["path"] for line in (data / "images.jsonl").read_text().splitlines()]
    order = [json.loads(line)["image"] for line in (data / "regions.jsonl").read_text().splitlines()]
    damage(raw / order[1])
    assert set(order) == set(rows)
    words = ["prepare", "regions", "compute", "--data", data, "--network", name, "--weights", "random", "--limit", "4"]
    built = []
    for builder in ("build_backbone", "build_vlbert"):
        own = getattr(extraction, builder)
        monkeypatch.setattr(extraction, builder, lambda weights, own=own: built.append(weights) or own(weights))
    assert command(*words, "--out", tmp_path / "out").code == 2 and not built
    told = "no such file" if damage is Path.unlink else ""
    store = leaves_out_one_of_four(command, well, words, tmp_path, told)
    assert len(store) == 3 and Path(order[1]).stem not in store


def test_images_of_shards_that_are_broken_are_left_out_as_well(well, command, world, tmp_path, monkeypatch):
    """A damaged tar is seen when its image is read."""
    monkeypatch.setattr(extraction, "SHORT_SIDE", 64)
    monkeypatch.setattr(extraction, "LONG_SIDE", 128)
    data = tmp_path / "data"
    well("prepare", "vqa", "--raw", "artifacts/raw/toy/vqa", "--out", data, "--shards", "400", "--min-count", "1")
    tar = next((data / "shards").glob("train*.tar"))
    spoilt = bytearray(tar.read_bytes())
    place = spoilt.find(b"\xff\xd8\xff") if b"\xff\xd8\xff" in spoilt else spoilt.find(b"\x89PNG")
    spoilt[place + 200] ^= 1
    tar.write_bytes(spoilt)
    words = ["prepare", "regions", "compute", "--data", data, "--weights", "random", "--grid", "1", "--out", tmp_path / "out"]
    refused = command(*words)
    assert refused.code == 2 and "differs from what was packed" in refused.err and not (tmp_path / "out").exists()
    well(*words, "--skip-broken", "50%")
    manifest = read_manifest(tmp_path / "out", REGIONS.stage, make_it="")
    assert manifest["left_out"]["images"] == 1


def test_what_takes_a_share_takes_a_list_of_faults_too():
    """All data sets and both ways to regions go through `prepare`; the other commands have tests of their own."""
    prepared = {f"prepare {name.replace('_', '-')}" for name in SOURCES} | {"prepare regions import", "prepare regions compute"}
    for option in ("--skip-broken", "--faults"):
        assert {name for name, words in options_of().items() if option in words} == prepared | {"index build", "predict"}
    assert IMPORTED.keys() == FORMATS.keys() and len(FORMATS) == 5 and len(NETWORKS) == 2


def goes_on(command, well, words: list, out: Path, count: Callable[[], int], monkeypatch) -> None:
    """A call that is interrupted after two images, whose next one looks at the others alone and makes the same store. count: of
    images looked at."""
    well(*words, "--out", out.with_name("whole"))
    before, add = count(), RegionWriter.add

    def interrupted(self, key, regions):
        add(self, key, regions)
        if self.images == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RegionWriter, "add", interrupted)
        assert command(*words, "--out", out).code == 130
    assert not out.exists()
    first = count()
    well(*words, "--out", out)
    store, other = RegionStore(out), RegionStore(out.with_name("whole"))
    assert count() - first == before - 2
    assert sorted(store) == sorted(other) and store.manifest["fingerprint"] == other.manifest["fingerprint"]
    assert all(store.manifest[name] == other.manifest[name] for name in ("images", "boxes", "bytes", "features"))


@pytest.mark.parametrize("name", FORMATS)
def test_of_no_format_an_image_is_read_again(name, command, well, tmp_path, monkeypatch):
    seen, read = [], importers.normalised
    monkeypatch.setattr(importers, "normalised", lambda regions: seen.append(1) or read(regions))
    words = ["prepare", "regions", "import", "--raw", IMPORTED[name](tmp_path / "raw"), "--skip-broken", "25%"]
    goes_on(command, well, words, tmp_path / "out", lambda: len(seen), monkeypatch)


@pytest.mark.parametrize("name", NETWORKS)
def test_by_no_network_features_are_computed_again(name, world, command, well, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHORT_SIDE", 64)
    monkeypatch.setattr(extraction, "LONG_SIDE", 128)
    monkeypatch.setattr(extraction, "ImageNetwork", lambda: TINY)
    seen, read = [], extraction._readable
    monkeypatch.setattr(extraction, "_readable", lambda *given: seen.append(1) or read(*given))
    for builder in ("build_backbone", "build_vlbert"):
        own = getattr(extraction, builder)
        monkeypatch.setattr(extraction, builder, lambda weights, own=own: torch.manual_seed(0) and own(weights))
    words = [
        "prepare",
        "regions",
        "compute",
        "--data",
        "artifacts/data/toy-vcr",
        "--network",
        name,
        "--weights",
        "random",
        "--limit",
        "5",
    ]
    goes_on(command, well, words, tmp_path / "out", lambda: len(seen), monkeypatch)
