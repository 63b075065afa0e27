"""Every door through which an image enters: the limit of pixels and EXIF's orientation go through all of them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hints import options_of
from PIL import Image

import vldistill
from vldistill.artifacts import read_manifest
from vldistill.data.image_files import MAX_PIXELS, check_images, open_image
from vldistill.data.sources.table import SOURCES
from vldistill.errors import InputError, Problems

PACKAGE = Path(vldistill.__file__).parent
SIZE = (5300, 5000)
"""A little over MAX_PIXELS."""
MORE = ["--max-pixels", "30000000"]
SIZES = [f"student.sizes.{size}" for size in ("width=16", "feedforward=16", "layers=1", "heads=2", "image_size=48", "patch=12")]


@pytest.fixture(scope="module")
def large(tmp_path_factory, well, few) -> Path:
    """A folder with photos that are over the cap, an artifact of them that was told so, one of small ones, and runs that know no
    other limit."""
    folder = tmp_path_factory.mktemp("large")
    for name, size in (("photos", SIZE), ("small", (48, 36))):
        (folder / name).mkdir()
        Image.new("L", size).save(folder / name / "a.png")
        rows = [{"image": "a.png", "text": "is it red?", "label": label} for label in ("no", "yes")]
        for split in ("train", "val"):
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "jsonl", "--raw", "small", "--out", "data-small")
        well("prepare", "jsonl", "--raw", "photos", "--out", "data", *MORE)
        well("prepare", "jsonl", "--raw", "photos", "--out", "headers", "--images", "header", *MORE)
        well("prepare", "jsonl", "--raw", "photos", "--out", "shards", "--shards", "2", *MORE)
        fresh = ["data.path=data-small", "student.init=null", "image.size=36", *few, *SIZES]
        well("finetune", "-r", "quickstart_dide", *fresh, "--name", "a")
        well("finetune", "-r", "quickstart_teacher", *fresh, "--name", "a")
        pair = {"image": "photos/a.png", "text": "is it red?"}
        Path("pairs.jsonl").write_text(json.dumps(pair) + "\n")
    return folder


RUN, FUSION = "runs/quickstart_dide/a/seed0", "runs/quickstart_teacher/a/seed0"
TOLD: dict[str, list[str]] = {
    "prepare": ["prepare", "jsonl", "--raw", "photos", "--out", "{out}"],
    "index build": ["index", "build", RUN, "photos", "--out", "{out}"],
    "predict --image": ["predict", RUN, "--image", "photos/a.png", "--text", "is it red?"],
    "predict --pairs": ["predict", RUN, "--pairs", "pairs.jsonl"],
    "analyze --attention": [
        *("analyze", RUN, "--attention", "--image", "photos/a.png"),
        *("--text", "is it red?", "--out", "{out}.html"),
    ],
}
"""Doors at which a user names images: refused, or told --max-pixels."""
OF_DATA: dict[str, list[str]] = {
    "finetune": [
        "finetune",
        "-r",
        "quickstart_teacher",
        "student.init=null",
        "image.size=36",
        *SIZES,
        "train.steps=1",
        "train.batch.pairs=2",
        "data.path={data}",
        "--runs",
        "{out}",
    ],
    "evaluate": ["evaluate", RUN, "--data", "{data}", "--out", "{out}"],
    "index build": ["index", "build", RUN, "{data}", "--out", "{out}"],
    "prepare regions compute": [
        "prepare",
        "regions",
        "compute",
        "--data",
        "{data}",
        "--weights",
        "random",
        "--grid",
        "1",
        "--out",
        "{out}",
    ],
    "analyze --modality": ["analyze", FUSION, "--modality", "--data", "{data}", "--out", "{out}.html"],
    "analyze --tokens": ["analyze", FUSION, "--tokens", "--data", "{data}", "--out", "{out}.html"],
}
"""Doors that read an artifact, which knows what it was told."""


def filled(words: list[str], out: Path, data: str = "") -> list[str]:
    return [word.format(out=out, data=data) for word in words]


@pytest.mark.parametrize("door", TOLD)
def test_a_door_takes_more_pixels_where_it_is_told_so(door, large, command, tmp_path, monkeypatch):
    monkeypatch.chdir(large)
    words = filled(TOLD[door], tmp_path / "out")
    refused = command(*words)
    assert refused.code == 2 and f"over the cap of {MAX_PIXELS:,} (resize it, or allow more with --max-pixels" in refused.err
    done = command(*words, *MORE)
    assert done.code == 0, done.err


@pytest.mark.parametrize("door", OF_DATA)
@pytest.mark.parametrize("data", ["data", "headers", "shards"])
def test_a_door_that_reads_an_artifact_takes_what_that_was_told(door, data, large, command, tmp_path, monkeypatch):
    monkeypatch.chdir(large)
    done = command(*filled(OF_DATA[door], tmp_path / "out", data))
    assert done.code == 0, done.err


def test_an_index_shows_what_it_was_built_of(large, well, command, tmp_path, monkeypatch):
    monkeypatch.chdir(large)
    well("index", "build", RUN, "photos", "--out", tmp_path / "i", *MORE)
    assert read_manifest(tmp_path / "i", "index", make_it="")["max_pixels"] == int(MORE[1])
    well("index", "query", tmp_path / "i", "a red square", "--answer", "yes", "--out", tmp_path / "page.html")
    refused = command("index", "build", RUN, "data", "--out", tmp_path / "j", *MORE)
    assert refused.code == 2 and "this data artifact has its own" in refused.err


def test_from_python(large, monkeypatch):
    monkeypatch.chdir(large)
    with pytest.raises(InputError, match="over the cap"):
        vldistill.load(RUN).answer("photos/a.png", "is it red?")
    model = vldistill.load(RUN, max_pixels=int(MORE[1]))
    assert model.answer("photos/a.png", "is it red?").label in ("yes", "no")
    assert model.encode_images(["photos/a.png"]).shape[0] == 1


def calls(*names: str) -> list[tuple[str, ast.Call]]:
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name in names:
                    found.append((f"{path.relative_to(PACKAGE)}:{node.lineno} {name}", node))
    return found


def test_the_doors_are_all_there_are():
    """Whoever opens a folder of images, or looks at them, says how many pixels they may have; whoever lets a user name images has
    the option. Shards and folders are opened in few places, which the doors above go through."""
    opened = calls("ImageFolder", "ShardImages", "check_images", "open_image", "decode_image")
    assert len(opened) >= 10
    for place, call in opened:
        given = {keyword.arg for keyword in call.keywords} | ({"most_pixels"} if len(call.args) == 4 else set())
        assert "most_pixels" in given, f"{place} does not say how many pixels an image may have"
    named = {place.split(":")[0] for place, _ in calls("named_images", "read_pairs")}
    assert named == {"api.py", "commands/predict.py", "commands/analyze.py"}
    takes = {name for name, options in options_of().items() if "--max-pixels" in options}
    assert {name for name, options in options_of().items() if "--image" in options} <= takes
    sources = {f"prepare {name.replace('_', '-')}" for name in SOURCES}  # one reader of images stands behind all
    assert sources <= takes and takes - sources | {"prepare"} == {door.split(" --")[0] for door in TOLD}


# --- EXIF ------------------------------------------------------------------------------------------------------------------


def lying(path: Path, exif: bytes | None = None) -> Path:
    """400 x 100 pixels as stored; upright, it stands."""
    own = Image.Exif()
    own[0x0112] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 400, 3), dtype=np.uint8)).save(path, exif=exif or own)
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("decode", [True, False])
def test_how_an_image_lies_is_recorded(name, decode, tmp_path):
    lying(tmp_path / name)
    info = check_images(tmp_path, [name], Problems(), {}, decode=decode)[name]
    assert info.turned and (info.width, info.height) == (400, 100)
    assert info.size(upright=True) == (100, 400) == open_image(tmp_path / name, upright=True).size
    assert info.size(upright=False) == (400, 100) == open_image(tmp_path / name).size


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_exif_data_that_cannot_be_read_is_none(exif, tmp_path):
    lying(tmp_path / "a.jpg", exif)
    info = check_images(tmp_path, ["a.jpg"], Problems(), {})["a.jpg"]
    assert not info.turned and open_image(tmp_path / "a.jpg", upright=True).size == (400, 100)


EXIF_DOORS: dict[str, Callable[[str], list[str]]] = {
    "finetune --dry-run": lambda exif: [
        *("finetune", "-r", "quickstart_dide", "data.path=data", "student.init=null", "image.size=48", *SIZES),
        *(f"image.exif={exif}", "train.steps=1", "--dry-run"),
    ],
    "index build --dry-run": lambda exif: ["index", "build", f"runs/quickstart_dide/{exif}/seed0", "raw", "--dry-run"],
    "index build of data --dry-run": lambda exif: ["index", "build", f"runs/quickstart_dide/{exif}/seed0", "data", "--dry-run"],
}


def test_warnings_of_sizes_tell_what_a_student_sees(well, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    lying(tmp_path / "raw/long.jpg")
    rows = [{"image": "long.jpg", "text": f"is it {word}?", "label": label} for word, label in (("red", "yes"), ("blue", "no"))]
    for split in ("train", "val"):
        (tmp_path / f"raw/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for more in (["--dry-run"], []):
        told = well("prepare", "jsonl", "--raw", "raw", "--out", "data", *more).flat
        assert "1 of 1 images lie on their side by their EXIF data (long.jpg)" in told and "image.exif=true" in told
    for exif in ("true", "false"):
        fresh = ["data.path=data", "student.init=null", "image.size=48", f"image.exif={exif}", *few, *SIZES]
        well("finetune", "-r", "quickstart_dide", *fresh, "--name", exif)
        log = (tmp_path / f"runs/quickstart_dide/{exif}/seed0/log.txt").read_text()
        seen = {"true": "100 x 400 becomes 12 x 72", "false": "400 x 100 becomes 72 x 12"}[exif]
        assert seen in log
        for door, words in EXIF_DOORS.items():
            assert seen in well(*words(exif)).flat, door
        well("evaluate", f"runs/quickstart_dide/{exif}/seed0")
    well("report", "runs", "--out", "report")
    shown = re.findall(r'<img src="[^"]+" width="(\d+)" height="(\d+)"', (tmp_path / "report/report.html").read_text())
    assert shown and all(int(height) > int(width) for width, height in shown)  # people see it as a viewer shows it
