"""Region features: every published layout into one store, read back by image."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import region_files as files
import torch

from vldistill.data.prepare_regions import BoxRule, Target, import_regions
from vldistill.data.regions.store import ImageRegions, RegionStore, RegionWriter, image_key
from vldistill.errors import InputError
from vldistill.store import writer as writer_module

IMAGES = [files.make(name, count) for name, count in (("9", 12), ("25", 30), ("30", 11))]
ALL = BoxRule(threshold=0.0, most=100)


def bring(raw: Path, out: Path, **arguments) -> RegionStore:
    import_regions(raw, Target(out), **arguments)
    return RegionStore(out)


def same(regions: ImageRegions, image: files.Image, *, confidence: bool = False, soft_labels: bool = False) -> None:
    """The regions are those of the image, in half precision."""
    np.testing.assert_allclose(regions.features, image.features, atol=2e-3)
    np.testing.assert_allclose(regions.boxes, image.shares, atol=1e-3)
    assert regions.features.dtype == np.float16 and regions.boxes.dtype == np.float32
    assert (regions.confidence is not None) == confidence and (regions.soft_labels is not None) == soft_labels
    if confidence:
        np.testing.assert_allclose(regions.confidence, image.confidence, atol=1e-3)
    if soft_labels:
        np.testing.assert_allclose(regions.soft_labels, image.soft_labels, atol=1e-3)


@pytest.mark.parametrize(
    "name, key",
    [
        ("train2014/COCO_train2014_000000000009.jpg", "9"),
        ("coco_val2014_000000000009.npz", "9"),
        ("flickr30k_000004804607632.npz", "4804607632"),
        ("flickr30k-images/4804607632.jpg", "4804607632"),
        ("nlvr2_dev-850-0-img0.npz", "dev-850-0-img0"),
        ("images/train/12/dev-850-0-img0.png", "dev-850-0-img0"),
        ("vcr_gt_val_1054_Potter_01.34.16.084-01.34.18.985@0.npz", "1054_Potter_01.34.16.084-01.34.18.985@0"),
        ("vcr1images/lsmdc_1054/1054_Potter_01.34.16.084-01.34.18.985@0.jpg", "1054_Potter_01.34.16.084-01.34.18.985@0"),
        ("vg_000000002370.npz", "2370"),
        ("0", "0"),
        ("000", "0"),
    ],
)
def test_an_image_has_one_key_whatever_it_is_called(name, key):
    assert image_key(name) == key


# --- the layouts ------------------------------------------------------------------------------------------------------


def test_uniter_s_npz_files(tmp_path):
    found = bring(files.write_npz(tmp_path / "npz", IMAGES), tmp_path / "out", rule=ALL)
    assert len(found) == 3 and set(found) == {"9", "25", "30"} and found.width == 8 and found.features == "detector"
    for image in IMAGES:
        same(found[f"train2014/COCO_train2014_{int(image.name):012d}.jpg"], image, confidence=True, soft_labels=True)
    assert "val2014/COCO_val2014_000000000026.jpg" not in found


@pytest.mark.parametrize("how", [{}, {"compressed": True}, {"old": True}])
def test_uniter_s_lmdb(tmp_path, how):
    pytest.importorskip("lmdb")
    images = [files.make(f"dev-850-0-img{i}") for i in (0, 1)]
    found = bring(files.write_lmdb(tmp_path / "lmdb", images, **how), tmp_path / "out", rule=ALL)
    for image in images:
        same(found[f"dev/{image.name}.png"], image, confidence=True, soft_labels=True)


def test_uniter_s_rule_of_boxes(tmp_path):
    """Those above the threshold, but 10 to 100, from the top."""
    confident = {"4": 3, "5": 20, "6": 150}
    images = []
    for name, above in confident.items():
        image = files.make(name, 160)
        image.confidence = np.where(np.arange(160) < above, 0.9, 0.1)
        images.append(image)
    found = bring(files.write_npz(tmp_path / "npz", images), tmp_path / "out")
    assert {name: len(found[name].boxes) for name in confident} == {"4": 10, "5": 20, "6": 100}
    np.testing.assert_allclose(found["5"].features, images[1].features[:20], atol=2e-3)


def test_bottom_up_attention_s_tsv(tmp_path):
    raw = files.write_tsv(tmp_path / "resnet101.tsv", [files.bottom_up_row(image) for image in IMAGES])
    found = bring(raw, tmp_path / "out")
    for image in IMAGES:
        same(found[image.name], image)
        assert found[image.name].size == (files.WIDTH, files.HEIGHT)


def test_blank_lines_of_a_tsv_are_passed_over(tmp_path):
    raw = files.write_tsv(tmp_path / "a.tsv", [[], files.bottom_up_row(IMAGES[0]), [" "], files.bottom_up_row(IMAGES[1]), []])
    assert list(bring(raw, tmp_path / "out")) == ["9", "25"]


def test_tensors_that_were_trained_are_read(tmp_path):
    torch.save({"9": torch.from_numpy(files.oscar_rows(IMAGES[0])).requires_grad_()}, tmp_path / "a.pt")
    same(bring(tmp_path / "a.pt", tmp_path / "out")["9"], IMAGES[0])


def test_the_file_of_an_lmdb(tmp_path):
    pytest.importorskip("lmdb")
    raw = files.write_lmdb(tmp_path / "lmdb", [files.make("a")]) / "data.mdb"
    assert list(bring(raw, tmp_path / "out")) == ["a"]


def test_lxmert_s_tsv(tmp_path):
    raw = files.write_tsv(tmp_path / "val2014_obj36.tsv", [files.lxmert_row(image) for image in IMAGES])
    found = bring(raw, tmp_path / "out", rule=ALL)
    for image in IMAGES:
        same(found[image.name], image, confidence=True)


def test_oscar_s_dictionary_and_tsv(tmp_path):
    table = {image.name: torch.from_numpy(files.oscar_rows(image)) for image in IMAGES}
    torch.save(table, tmp_path / "nlvr2_img_frcnn_feats.pt")
    rows = [[image.name, str(len(image.boxes)), files.coded(files.oscar_rows(image))] for image in IMAGES]
    for raw in (tmp_path / "nlvr2_img_frcnn_feats.pt", files.write_tsv(tmp_path / "features.tsv", rows)):
        found = bring(raw, tmp_path / f"out-{raw.suffix}")
        for image in IMAGES:
            same(found[image.name], image)
            assert found[image.name].size is None


@pytest.mark.parametrize("zipped", [False, True])
def test_vl_bert_s_json(tmp_path, zipped):
    folder = tmp_path / "trainval"
    folder.mkdir()
    for image in IMAGES:
        (folder / f"{int(image.name):012d}.json").write_text(json.dumps(files.vlbert_json(image)))
    raw = folder
    if zipped:
        raw = tmp_path / "trainval.zip"
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in folder.iterdir():
                archive.write(file, f"trainval/{file.name}")
    found = bring(raw, tmp_path / "out")
    for image in IMAGES:
        same(found[image.name], image)
        np.testing.assert_allclose(found[image.name].image_feature, image.features.mean(axis=0), atol=2e-3)


# --- the store --------------------------------------------------------------------------------------------------------


def test_images_of_several_shards_come_back_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1500)
    images = [files.make(str(i), 3 + i % 7) for i in range(1, 60)]
    with RegionWriter(tmp_path) as writer:
        for image in images:
            writer.add(image.name, ImageRegions(image.features.astype(np.float16), image.shares.astype(np.float32)))
        manifest = writer.close(features="detector")
    assert len(list(tmp_path.glob("*.h5"))) > 5
    assert (manifest["images"], manifest["boxes"]) == (59, sum(len(image.boxes) for image in images))
    found = RegionStore(tmp_path)
    for image in reversed(images):
        same(found[image.name], image)
    assert list(found) == [image.name for image in images]


def read_one(found: RegionStore) -> float:
    return float(found["25"].features.astype(np.float32).sum())


def test_a_store_may_go_to_other_processes(tmp_path):
    found = bring(files.write_npz(tmp_path / "npz", IMAGES), tmp_path / "out", rule=ALL)
    expected = read_one(found)
    assert read_one(pickle.loads(pickle.dumps(found))) == expected
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(read_one, (found,)) == expected


def test_one_image_more_is_another_store_and_the_same_files_are_none(tmp_path):
    raw, target = files.write_npz(tmp_path / "npz", IMAGES), Target(tmp_path / "out")
    first = import_regions(raw, target, rule=ALL)
    again = import_regions(raw, target, rule=ALL)
    assert again.pop("unchanged") and again == first
    with pytest.raises(InputError, match="already exists"):
        import_regions(raw, target, rule=BoxRule(0.5))
    files.write_npz(raw, [files.make("77")])
    with pytest.raises(InputError, match="already exists"):
        import_regions(raw, target, rule=ALL)
    second = import_regions(raw, Target(tmp_path / "out", overwrite=True), rule=ALL)
    assert second["images"] == 4 and second["fingerprint"] != first["fingerprint"]


def test_a_limit_is_marked_partial_and_a_dry_run_writes_nothing(tmp_path):
    raw = files.write_npz(tmp_path / "npz", IMAGES)
    assert import_regions(raw, Target(tmp_path / "dry", dry_run=True))["options"]["format"] == "npz"
    assert not (tmp_path / "dry").exists()
    manifest = import_regions(raw, Target(tmp_path / "out", limit=2))
    assert manifest["partial"] and manifest["images"] == 2


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "bytes, [0-9,]+ were written"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "is damaged"),
    ],
)
def test_a_damaged_store_is_one_error(tmp_path, damage, message):
    bring(files.write_npz(tmp_path / "npz", IMAGES), tmp_path / "out")
    damage(tmp_path / "out" / "shard-0000.h5")
    with pytest.raises(InputError, match=message):
        RegionStore(tmp_path / "out")["9"]
    if message != "is damaged":  # which a look at its size cannot tell
        with pytest.raises(InputError, match=message):
            import_regions(tmp_path / "npz", Target(tmp_path / "out"))


def test_an_image_without_regions_is_one_error(tmp_path):
    found = bring(files.write_npz(tmp_path / "npz", IMAGES), tmp_path / "out")
    with pytest.raises(InputError, match=r"no regions of train2014/COCO_train2014_000000000010.jpg"):
        found["train2014/COCO_train2014_000000000010.jpg"]


# --- several sources as one -------------------------------------------------------------------------------------------


def test_a_set_of_uniter_s_image_databases_is_read(tmp_path, well):
    """As they are published: `img_db/<set>/`, the database in a folder of its own beside counts of boxes."""
    pytest.importorskip("lmdb")
    place = tmp_path / "img_db/nlvr2_dev"
    place.mkdir(parents=True)
    (place / "nbb_th0.2_max100_min10.json").write_text('{"nlvr2_dev-850-0-img0.npz": 12}')
    image = files.make("dev-850-0-img0")
    files.write_lmdb(place / "feat_th0.2_max100_min10", [image])
    well("prepare", "regions", "import", "--raw", place, "--out", tmp_path / "out", "--threshold", "0", "--boxes", "1,100")
    same(RegionStore(tmp_path / "out")["dev-850-0-img0"], image, confidence=True, soft_labels=True)
    files.write_lmdb(place / "feat_numbb36", [image])
    with pytest.raises(InputError, match=r"set nlvr2_dev has several databases: feat_numbb36 and feat_th0\.2"):
        import_regions(place, Target(tmp_path / "two"))


def test_the_databases_of_a_data_set_become_one_store(tmp_path):
    pytest.importorskip("lmdb")
    sets = {"coco_train2014": ["9", "25"], "coco_val2014": ["42"], "coco_test2015": ["1", "16"]}
    for name, own in sets.items():
        (tmp_path / "img_db" / name).mkdir(parents=True)
        files.write_lmdb(tmp_path / "img_db" / name / "feat_th0.2", [files.make(one) for one in own])
    found = bring(tmp_path / "img_db", tmp_path / "out", rule=ALL)
    assert set(found) == {"9", "25", "42", "1", "16"}
    for own in sets.values():
        for name in own:
            same(found[name], files.make(name), confidence=True, soft_labels=True)


NAMES = ["a@0", "b@1", "c@2"]


def write_npz_pair(folder: Path, own: dict[str, files.Image], detected: dict[str, files.Image]) -> Path:
    folder.mkdir()
    for prefix, images in (("vcr_gt_train_", own), ("vcr_train_", detected)):
        for name, image in images.items():
            np.savez(folder / f"{prefix}{name}.npz", **files.uniter_arrays(image))
    return folder


def write_lmdb_pair(folder: Path, own: dict[str, files.Image], detected: dict[str, files.Image]) -> Path:
    import lmdb
    import msgpack

    for prefix, images in (("vcr_gt_train_", own), ("vcr_train_", detected)):
        (folder / prefix.rstrip("_")).mkdir(parents=True)
        with lmdb.open(str(folder / prefix.rstrip("_")), map_size=1 << 26) as database, database.begin(write=True) as to:
            for name, image in images.items():
                arrays = {part: files.packed_array(value) for part, value in files.uniter_arrays(image).items()}
                to.put(f"{prefix}{name}.npz".encode(), msgpack.packb(arrays, use_bin_type=True))
    return folder


@pytest.mark.parametrize("write", [write_npz_pair, write_lmdb_pair])
def test_annotated_boxes_come_first_and_are_known(tmp_path, write):
    pytest.importorskip("lmdb")
    own = {name: files.make(name, 4 + number, seed=1) for number, name in enumerate(NAMES[:2])}
    detected = {name: files.make(name, 12, seed=2) for name in NAMES}
    found = bring(write(tmp_path / "raw", own, detected), tmp_path / "out", rule=ALL)
    assert set(found) == set(NAMES)
    for name in NAMES:
        parts = [source[name] for source in (own, detected) if name in source]
        np.testing.assert_allclose(found[name].features, np.concatenate([part.features for part in parts]), atol=2e-3)
        np.testing.assert_allclose(found[name].boxes, np.concatenate([part.shares for part in parts]), atol=1e-3)
        assert found[name].own == (len(own[name].boxes) if name in own else None)


# --- what made them ---------------------------------------------------------------------------------------------------


def test_features_are_called_by_what_their_files_say(tmp_path, well):
    """Confidences and classes are a detector's; cells of a grid are none, whatever comes with them; of the rest nobody knows."""
    image = files.make("9", 9)
    side = np.linspace(0, 1, 4)
    cells = np.array([[side[j], side[i], side[j + 1], side[i + 1]] for i in range(3) for j in range(3)])
    plain = {"features": image.features.astype(np.float16), "norm_bb": image.norm_bb.astype(np.float16)}
    grid = {**files.uniter_arrays(image), "norm_bb": np.column_stack([cells, cells[:, 2:] - cells[:, :2]]).astype(np.float16)}
    for name, arrays, expected in (
        ("detector", files.uniter_arrays(image), "detector"),
        ("plain", plain, "imported"),
        ("grid", grid, "imported"),
    ):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "9.npz", **arrays)
        told = well(
            "prepare", "regions", "import", "--raw", tmp_path / name, "--out", tmp_path / f"{name}-store", "--boxes", "1,100"
        ).out
        assert f"regions from {expected}" in told and RegionStore(tmp_path / f"{name}-store").features == expected
