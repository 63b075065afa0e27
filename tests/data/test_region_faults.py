"""Feature files that are broken, hostile or of another kind: refused whole, in one line that names file and entry."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import region_files as files
import torch

from vldistill.data.prepare_regions import BoxRule, Target, detect_format, import_regions
from vldistill.data.regions import importers
from vldistill.errors import InputError

IMAGES = [files.make(name, count) for name, count in (("9", 12), ("25", 30), ("30", 11))]


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


def renamed(folder: Path, name: str) -> Path:
    (folder / "coco_train2014_000000000011.npz").rename(folder / name)
    return folder


def misnamed(path: Path) -> Path:
    """A zip whose member says that its name is UTF-8, which it is not."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é.json", "{}")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    return path


def twice(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("5.json", json.dumps(files.vlbert_json(files.make("5"))))
    return path


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
    "npz without a box": (
        lambda p: npz(
            p, features=GOOD.features[:0], norm_bb=GOOD.norm_bb[:0], conf=GOOD.confidence[:0], soft_labels=GOOD.soft_labels[:0]
        ),
        "0 boxes",
    ),
    "npz of objects": (lambda p: npz(p, features=np.array([Evil()], dtype=object)), "no npz file of numbers"),
    "npz with text for confidences": (lambda p: npz(p, conf=np.array(["a"] * 12)), "`confidence` holds <U1"),
    "npz with times for confidences": (lambda p: npz(p, conf=np.zeros(12, "datetime64[s]")), "`confidence` holds datetime64"),
    "npz of complex features": (lambda p: npz(p, features=GOOD.features.astype(complex)), "`features` holds complex128"),
    "npz of structures": (lambda p: npz(p, soft_labels=np.zeros((12, 3), [("a", "f4")])), "`soft_labels` holds"),
    "npz of one confidence": (lambda p: npz(p, conf=np.array(0.5)), "`confidence` has 0 dimensions"),
    "npz of features of one": (lambda p: npz(p, features=GOOD.features[0]), "`features` has 1 dimensions"),
    "npz of classes of one": (lambda p: npz(p, soft_labels=np.zeros(12)), "`soft_labels` has 1 dimensions"),
    "npz of classes of three": (lambda p: npz(p, soft_labels=np.zeros((12, 5, 1))), "`soft_labels` has 3 dimensions"),
    "npz of no class": (lambda p: npz(p, soft_labels=np.zeros((12, 0))), "soft_labels of no class"),
    "npz of no feature": (lambda p: npz(p, features=np.zeros((12, 0))), r"features \[12, 0\]"),
    "npz with a confidence less": (lambda p: npz(p, conf=np.zeros(11)), "11 rows of confidence"),
    "npz with a name that is not UTF-8": (lambda p: renamed(npz(p), os.fsdecode(b"\xff.npz")), r"\\udcff.npz: has no name"),
    "npz without a name": (lambda p: renamed(npz(p), "vg_.npz"), "has no name"),
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
    "oscar of a sparse tensor": (lambda p: oscar(p, {"a": torch.eye(9).to_sparse()}), "is sparse, complex"),
    "oscar of a tensor without content": (lambda p: oscar(p, {"a": torch.zeros(3, 9, device="meta")}), "is sparse, complex"),
    "oscar of complex numbers": (lambda p: oscar(p, {"a": torch.zeros(3, 9, dtype=torch.cfloat)}), "is sparse, complex"),
    "oscar of one image twice": (lambda p: oscar(p, {"9": torch.zeros(3, 9), 9: torch.zeros(3, 9)}), "image 9 appears twice"),
    "oscar with numbers for a name": (lambda p: oscar(p, {(1, 2): torch.zeros(3, 9)}), "is no name of an image"),
    "oscar of code": (lambda p: oscar(p, {"a": Evil()}), "holds more than tensors"),
    "oscar cut off": (lambda p: raw_bytes(p, "a.pt", b"PK\3\4 nothing"), "is broken"),
    "vl-bert without boxes": (lambda p: vlbert(p, boxes=None), "lacks `boxes`"),
    "vl-bert with a text for a number": (lambda p: vlbert(p, num_boxes="12"), "`num_boxes` is no whole number"),
    "vl-bert with a narrow whole": (lambda p: vlbert(p, image_box_feature=files.coded(np.zeros(3))), "1 x 8"),
    "vl-bert of a huge width": (lambda p: vlbert(p, image_w=10**400), "`image_w` is no whole number from 1"),
    "vl-bert of a large width": (lambda p: vlbert(p, image_w=2**40), "`image_w` is no whole number from 1"),
    "vl-bert with a number for a whole": (lambda p: vlbert(p, image_box_feature=5), "`image_box_feature` is no text"),
    "vl-bert with a member twice": (lambda p: twice(p / "a.zip"), "image 5 appears twice"),
    "vl-bert cut off": (lambda p: raw_bytes(p, "raw/a.json", b'{"image_w": '), "not valid JSON"),
    "vl-bert in Latin-1": (lambda p: raw_bytes(p, "raw/a.json", b'{"image_w": "\xe9"}'), "utf-8"),
    "vl-bert as a list": (lambda p: raw_bytes(p, "raw/a.json", b"[]"), "JSON object was expected"),
    "vl-bert with a name that is no text": (lambda p: misnamed(p / "a.zip"), "no zip that can be read"),
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


PACKED = {name.encode(): files.packed_array(array) for name, array in files.uniter_arrays(GOOD).items()}


@pytest.mark.parametrize(
    "value, message",
    [
        (b"\xc1", "no msgpack map"),
        ({b"features": {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n"}}, "array of '|O'"),
        ({b"features": {b"nd": True, b"type": "<f2", b"kind": b"", b"shape": [3, 5], b"data": b"\0\0"}}, "no msgpack map"),
        ({b"features": 3}, "lacks `features`"),
        ([1, 2], "no msgpack map"),
        ({b"features": {b"nd": True, b"type": "<f3", b"kind": b"", b"shape": [1], b"data": b"123"}}, "no msgpack map"),
        (b"\x81\x91\x01\x02", "no msgpack map"),  # a list for a key
        ({**PACKED, b"conf": [1.0] * 12}, "`confidence` is of type list"),
        ({**PACKED, b"conf": b"1" * 12}, "`confidence` is of type bytes"),
        ({**PACKED, b"soft_labels": 3}, "`soft_labels` is of type int"),
    ],
)
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


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("folder", "tsv", "folder: is a folder, tsv comes as a file"),
        ("folder", "oscar", "folder: is a folder, oscar comes as a file"),
        ("file", "npz", "file: is a file, npz comes as a folder"),
        ("gone", "npz", "gone: no such file or folder"),
    ],
)
def test_a_format_that_does_not_come_so_is_refused(tmp_path, name, kind, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        import_regions(tmp_path / name, Target(tmp_path / "out"), kind=kind)
