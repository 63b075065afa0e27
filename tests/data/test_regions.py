"""Region features: every published layout into one store, read back by image; what is broken or hostile is refused whole."""

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

from vldistill.data.prepare_regions import BoxRule, Target, detect_format, import_regions
from vldistill.data.regions import importers
from vldistill.data.regions.keys import image_key
from vldistill.data.regions.store import Regions, RegionStore, RegionWriter
from vldistill.errors import InputError

IMAGES = [files.make(name, count) for name, count in (("9", 12), ("25", 30), ("30", 11))]
ALL = BoxRule(threshold=0.0, most=100)


def bring(raw: Path, out: Path, **arguments) -> RegionStore:
    import_regions(raw, Target(out), **arguments)
    return RegionStore(out)


def same(regions: Regions, image: files.Image, *, confidence: bool = False, soft_labels: bool = False) -> None:
    """The regions are those of the image, in half precision."""
    np.testing.assert_allclose(regions.features, image.features, atol=2e-3)
    np.testing.assert_allclose(regions.boxes, image.shares, atol=1e-3)
    assert regions.features.dtype == np.float16 and regions.boxes.dtype == np.float32
    assert (regions.confidence is not None) == confidence and (regions.soft_labels is not None) == soft_labels
    if confidence:
        np.testing.assert_allclose(regions.confidence, image.confidence, atol=1e-3)
    if soft_labels:
        np.testing.assert_allclose(regions.soft_labels, image.soft_labels, atol=1e-3)


@pytest.mark.parametrize("name, key", [
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
])
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


def test_images_never_straddle_shards_and_come_back_in_any_order(tmp_path):
    images = [files.make(str(i), 3 + i % 7) for i in range(1, 60)]
    writer = RegionWriter(tmp_path, shard_rows=40)
    for image in images:
        writer.add(image.name, Regions(image.features.astype(np.float16), image.shares.astype(np.float32)))
    writer.close()
    shards = sorted(tmp_path.glob("*.h5"))
    assert len(shards) > 5 and writer.images == 59 and writer.boxes == sum(len(image.boxes) for image in images)
    manifest = {"schema": 1, "stage": "regions", "complete": True, "images": 59, "width": 8, "features": "detector",
                "sizes": {path.name: path.stat().st_size for path in shards}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
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


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.unlink(), "missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-100]), "bytes, its manifest says"),
    (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "is damaged"),
])
def test_a_damaged_store_is_one_error(tmp_path, damage, message):
    bring(files.write_npz(tmp_path / "npz", IMAGES), tmp_path / "out")
    damage(tmp_path / "out" / "regions-00000.h5")
    with pytest.raises(InputError, match=message):
        RegionStore(tmp_path / "out")["9"]


def test_an_image_without_regions_is_one_error(tmp_path):
    found = bring(files.write_npz(tmp_path / "npz", IMAGES), tmp_path / "out")
    with pytest.raises(InputError, match=r"no regions of train2014/COCO_train2014_000000000010.jpg"):
        found["train2014/COCO_train2014_000000000010.jpg"]


# --- broken and hostile files -------------------------------------------------------------------------------------------


class Evil:
    """Its pickle would write a file."""

    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def npz(tmp_path: Path, **changes) -> Path:
    folder = files.write_npz(tmp_path / "raw", IMAGES[:1])
    arrays = files.uniter_arrays(files.make("11"))
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(folder / "coco_train2014_000000000011.npz", **arrays)
    return folder


def tsv(tmp_path: Path, place: int | None = None, value: str = "", rows: int = 2) -> Path:
    lines = [files.bottom_up_row(files.make(str(i + 1))) for i in range(rows)]
    if place is not None:
        lines[-1][place] = value
    return files.write_tsv(tmp_path / "raw.tsv", lines)


def vlbert(tmp_path: Path, **changes) -> Path:
    (tmp_path / "raw").mkdir()
    row = files.vlbert_json(files.make("3")) | changes
    (tmp_path / "raw/000000000003.json").write_text(json.dumps({k: v for k, v in row.items() if v is not None}))
    return tmp_path / "raw"


def oscar(tmp_path: Path, value) -> Path:
    torch.save(value, tmp_path / "raw.pt")
    return tmp_path / "raw.pt"


def raw_bytes(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path if path.suffix in (".tsv", ".pt", ".zip") else path.parent


GOOD = files.make("11")
NAN = GOOD.features.copy()
NAN[3, 2] = np.nan
WIDE = GOOD.norm_bb.copy()
WIDE[0, 2] = 1.5
INSIDE_OUT = GOOD.norm_bb.copy()
INSIDE_OUT[0, [0, 2]] = 0.9, 0.1
FAULTS = {
    "npz without features": (lambda p: npz(p, features=None), "lacks `features`"),
    "npz without boxes": (lambda p: npz(p, norm_bb=None), "lacks `norm_bb`"),
    "npz with fewer boxes": (lambda p: npz(p, norm_bb=GOOD.norm_bb[:4], conf=None, soft_labels=None), r"features \[12, 8\]"),
    "npz with boxes of 3": (lambda p: npz(p, norm_bb=GOOD.norm_bb[:, :3]), r"\[boxes, 6\] was expected"),
    "npz with fewer confidences": (lambda p: npz(p, conf=GOOD.confidence[:3]), "3 rows of confidence"),
    "npz with NaN": (lambda p: npz(p, features=NAN), "features that are not finite"),
    "npz beyond half precision": (lambda p: npz(p, features=GOOD.features * 1e6), "not finite in half precision"),
    "npz with NaN boxes": (lambda p: npz(p, norm_bb=GOOD.norm_bb * np.nan), "boxes that are not finite"),
    "npz with boxes outside": (lambda p: npz(p, norm_bb=WIDE), "outside the image"),
    "npz with boxes inside out": (lambda p: npz(p, norm_bb=INSIDE_OUT), "end before they begin"),
    "npz of another width": (lambda p: npz(p, features=GOOD.features[:, :4]), "has 4 features a box"),
    "npz without a box": (lambda p: npz(p, features=GOOD.features[:0], norm_bb=GOOD.norm_bb[:0], conf=GOOD.confidence[:0],
                                        soft_labels=GOOD.soft_labels[:0]), "0 boxes"),
    "npz of objects": (lambda p: npz(p, features=np.array([Evil()], dtype=object)), "no npz file of numbers"),
    "npz cut off": (lambda p: raw_bytes(p, "raw/a.npz", b"PK\3\4"), "no npz file"),
    "npz that is empty": (lambda p: raw_bytes(p, "raw/a.npz", b""), "no npz file"),
    "tsv of 4 columns": (lambda p: raw_bytes(p, "a.tsv", b"a\tb\tc\td\n"), "has 4 columns"),
    "tsv that is text": (lambda p: raw_bytes(p, "a.tsv", b"some words\n"), "has 1 columns"),
    "tsv that is empty": (lambda p: raw_bytes(p, "a.tsv", b""), "holds no image"),
    "tsv not base64": (lambda p: tsv(p, 5, "***"), "raw.tsv:2: is not base64"),
    "tsv cut off": (lambda p: tsv(p, 5, files.coded(GOOD.features)[:-8]), "raw.tsv:2: holds"),
    "tsv with no boxes": (lambda p: tsv(p, 3, "0"), "number of boxes is '0'"),
    "tsv with a negative width": (lambda p: tsv(p, 1, "-640"), "width is '-640'"),
    "tsv with too many boxes": (lambda p: tsv(p, 3, "13"), "holds 192 bytes, 13 x 4"),
    "tsv with an image twice": (lambda p: tsv(p, 0, "000001"), "image 1 appears twice"),
    "tsv in Latin-1 numbers": (lambda p: tsv(p, 3, "\u00bd"), "number of boxes"),
    "oscar of a list": (lambda p: oscar(p, [torch.zeros(3)]), "no dictionary of image id"),
    "oscar of numbers": (lambda p: oscar(p, {"a": 3}), "is no tensor"),
    "oscar of too narrow rows": (lambda p: oscar(p, {"a": torch.zeros(3, 6)}), r"features \+ 6\] was expected"),
    "oscar of code": (lambda p: oscar(p, {"a": Evil()}), "holds more than tensors"),
    "oscar cut off": (lambda p: raw_bytes(p, "a.pt", b"PK\3\4 nothing"), "is broken"),
    "vl-bert without boxes": (lambda p: vlbert(p, boxes=None), "lacks `boxes`"),
    "vl-bert with a text for a number": (lambda p: vlbert(p, num_boxes="12"), "`num_boxes` is no whole number"),
    "vl-bert with a narrow whole": (lambda p: vlbert(p, image_box_feature=files.coded(np.zeros(3))), "1 x 8"),
    "vl-bert cut off": (lambda p: raw_bytes(p, "raw/a.json", b'{"image_w": '), "not valid JSON"),
    "vl-bert in Latin-1": (lambda p: raw_bytes(p, "raw/a.json", b'{"image_w": "\xe9"}'), "utf-8"),
    "vl-bert as a list": (lambda p: raw_bytes(p, "raw/a.json", b"[]"), "JSON object was expected"),
    "vl-bert in no zip": (lambda p: raw_bytes(p, "a.zip", b"PK nothing"), "no zip that can be read"),
    "a folder of something else": (lambda p: raw_bytes(p, "raw/a.txt", b"x"), "does not look like region features"),
    "nothing": (lambda p: p / "gone", "no such file or folder"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_broken_is_refused_whole(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, message = FAULTS[name]
    with pytest.raises(InputError, match=message) as refusal:
        import_regions(make(tmp_path), Target(tmp_path / "out"))
    assert refusal.value.exit_code == 2
    lines = [line for line in str(refusal.value).splitlines() if "problems" not in line]
    assert all(line.startswith(str(tmp_path)) and line.endswith(")") for line in lines), lines
    assert not list(tmp_path.glob("*out*")) and not (tmp_path / "evil").exists()


def test_all_faults_are_told_at_once(tmp_path):
    rows = [files.bottom_up_row(files.make(str(i))) for i in range(6)]
    rows[1][5], rows[3][1], rows[5][0] = "*", "0", "2"
    with pytest.raises(InputError) as refusal:
        import_regions(files.write_tsv(tmp_path / "raw.tsv", rows), Target(tmp_path / "out"))
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines[:3]] == ["2", "4", "6"] and "3 problems" in lines[3]


@pytest.mark.parametrize("value, message", [
    (b"\xc1", "no msgpack map"),
    ({b"features": {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n"}}, "array of '|O'"),
    ({b"features": {b"nd": True, b"type": "<f2", b"kind": b"", b"shape": [3, 5], b"data": b"\0\0"}}, "no msgpack map"),
    ({b"features": 3}, "lacks `features`"),
    ([1, 2], "no msgpack map"),
])
def test_hostile_msgpack_is_refused(tmp_path, value, message):
    msgpack = pytest.importorskip("msgpack")
    pytest.importorskip("lmdb")
    data = value if isinstance(value, bytes) else msgpack.packb(value, use_bin_type=True)
    raw = files.write_lmdb(tmp_path / "lmdb", [files.make("a")], extra={"nlvr2_b.npz": data})
    with pytest.raises(InputError) as refusal:
        import_regions(raw, Target(tmp_path / "out"))
    assert message in str(refusal.value) and "lmdb:nlvr2_b.npz" in str(refusal.value)


def test_a_missing_reader_is_named(tmp_path, monkeypatch):
    (tmp_path / "lmdb").mkdir()
    (tmp_path / "lmdb" / "data.mdb").write_bytes(b"")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importers.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"lmdb is not installed \(pip install 'vldistill\[regions\]'\)"):
        import_regions(tmp_path / "lmdb", Target(tmp_path / "out"))


@pytest.mark.parametrize("name, kind", [("a.tsv", "tsv"), ("a.PT", "oscar"), ("a.zip", "vl-bert"), ("a.mdb", "uniter-lmdb")])
def test_a_format_is_known_by_its_file(tmp_path, name, kind):
    (tmp_path / name).touch()
    assert detect_format(tmp_path / name) == kind


@pytest.mark.parametrize("rule", [BoxRule(1.5), BoxRule(fewest=0), BoxRule(fewest=20, most=10)])
def test_a_rule_that_cannot_be_met_is_refused(tmp_path, rule):
    with pytest.raises(InputError, match="cannot be met"):
        import_regions(files.write_npz(tmp_path / "npz", IMAGES), Target(tmp_path / "out"), rule=rule)
