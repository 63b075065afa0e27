"""Inputs of which some is broken: all faults on disk, a share left out and counted, and the rest used."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from vldistill.artifacts import read_manifest
from vldistill.data.image_files import SUFFIXES
from vldistill.data.records import read_records
from vldistill.data.regions.store import image_key
from vldistill.data.shards import image_name
from vldistill.data.sources.table import SOURCES
from vldistill.data.toy.layouts import DATASETS, write_toy
from vldistill.evaluation.image_index import ImageIndex


def faults_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def crawl(root: Path, rows: int = 40, broken: int = 30) -> Path:
    """Conceptual Captions as img2dataset leaves it, with web pages named .jpg."""
    (root / "training/00000").mkdir(parents=True)
    lines = [f"a picture of thing {row}\thttp://x.org/{row}.jpg" for row in range(rows)]
    (root / "Train_GCC-training.tsv").write_text("\n".join(lines) + "\n")
    for row in range(rows):
        path = root / f"training/00000/{row:09d}.jpg"
        if row < broken:
            path.write_text("<html>404</html>")
        else:
            Image.new("RGB", (32, 32), (row, 0, 0)).save(path)
    return root


def test_a_crawl_of_web_pages(command, well, tmp_path):
    raw, out, faults = crawl(tmp_path / "raw"), tmp_path / "out", tmp_path / "faults.jsonl"
    result = command("prepare", "gcc", "--raw", raw, "--out", out)
    assert result.code == 2 and result.err.count("is not an image") == 20 and "--faults FILE writes all of them" in result.err
    result = command("prepare", "gcc", "--raw", raw, "--out", out, "--faults", faults)
    assert result.code == 2 and not out.exists() and f"all 30 faults are in {faults}" in result.err
    rows = faults_of(faults)
    assert len(rows) == 30 and all("is not an image" in row["fault"] and row["mend"] for row in rows)
    assert {row["where"] for row in rows} == {f"{raw}/Train_GCC-training.tsv:{number}" for number in range(1, 31)}
    result = command("prepare", "gcc", "--raw", raw, "--out", out, "--skip-broken", "70%", "--faults", faults)
    assert result.code == 2 and "75.0% are broken, over the 70.0% of --skip-broken" in result.err and not out.exists()
    assert len(faults_of(faults)) == 30
    for more in (["--dry-run"], []):
        told = well("prepare", "gcc", "--raw", raw, "--out", out, "--skip-broken", "75%", "--faults", faults, *more).flat
        assert "left out 30 of 40 (75.0%): 0 faulty lines, 30 for 30 broken images" in told and len(faults_of(faults)) == 30
    manifest = read_manifest(out, "prepare", make_it="")
    assert manifest["left_out"] == {"lines": 0, "images": 30, "records": 30, "kept": 10}
    assert manifest["counts"]["train"]["records"] == 10 == len(read_records(out / "train.jsonl"))
    assert "up to date" in well("prepare", "gcc", "--raw", raw, "--out", out, "--skip-broken", "75%").out


def test_a_file_of_faults_replaces_no_other_file_and_is_empty_where_all_is_well(command, well, tmp_path):
    raw = crawl(tmp_path / "raw", 4, 0)
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"where": 1}\n')
    result = command("prepare", "gcc", "--raw", raw, "--out", tmp_path / "out", "--faults", mine)
    assert result.code == 2 and "holds no faults" in result.err and mine.read_text() == '{"where": 1}\n'
    assert "no such folder" in command("prepare", "gcc", "--raw", raw, "--faults", tmp_path / "no/f").err
    well("prepare", "gcc", "--raw", raw, "--out", tmp_path / "out", "--faults", tmp_path / "none.jsonl")
    assert (tmp_path / "none.jsonl").read_text() == ""
    assert "is no share" in command("prepare", "gcc", "--raw", raw, "--skip-broken", "many").err


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "toy"
    write_toy(root, scale=0.01)
    return root


@pytest.mark.parametrize("name", DATASETS)
def test_every_source_leaves_out_the_records_of_a_broken_image(toys, command, well, tmp_path, name):
    assert set(DATASETS) | {"nlvr", "jsonl"} == set(SOURCES)  # these two have tests of their own
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(toys / name, raw)
    common = ("prepare", name, "--raw", raw, "--out", out, *(["--min-count", "1"] if name == "vqa" else []))
    whole = well(*common, "--dry-run")
    victim = sorted(path for path in raw.rglob("*.*") if path.suffix in SUFFIXES)[0]
    victim.write_bytes(victim.read_bytes()[:200])
    assert command(*common).code == 2 and not out.exists()
    well(*common, "--skip-broken", "60")
    manifest = read_manifest(out, "prepare", make_it="")
    left = manifest["left_out"]
    assert left["images"] == 1 and left["records"] >= 1 and left["lines"] == 0
    for split, counts in manifest["counts"].items():
        records = read_records(out / f"{split}.jsonl")
        assert len(records) == counts["records"]
        assert not any(str(raw / path) == str(victim) for record in records for path in record.images)
    assert whole.code == 0 and left["kept"] == sum(part["records"] for part in manifest["counts"].values())


def test_faulty_lines_are_left_out_with_the_images_of_others(command, well, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    rows = [{"image": "a.png", "text": f"is it {number}?", "label": ["no", "yes"][number % 2]} for number in range(16)]
    faulty = [
        '{"image": "a.png"',
        '{"image": "a.png", "text": 3, "label": "no"}',
        '{"image": "b.png", "text": "x", "label": "no"}',
        '{"image": "c.png", "text": "x"}',
    ]
    lines = [json.dumps(row) for row in rows] + faulty
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert command("prepare", "jsonl", "--raw", tmp_path, "--out", out).code == 2
    well("prepare", "jsonl", "--raw", tmp_path, "--out", out, "--skip-broken", "20%", "--task", "classification")
    left = read_manifest(out, "prepare", make_it="")["left_out"]
    assert left == {"lines": 3, "images": 1, "records": 1, "kept": 16}


# --- names --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "there, asked, hint",
    [
        ("photos/IMG_1.JPG", "photos/img_1.jpg", "there is 'IMG_1.JPG', in other capitals"),
        ("photos/é.png", unicodedata.normalize("NFD", "photos/é.png"), "in another Unicode form"),
        ("photos/a.png", "photos\\a.png", "write / instead"),
        ("photos/a.png", "Photos/a.png", "there is the folder 'photos', in other capitals"),
        ("photos/a.png", "photos/a.jpg", "there is 'a.png', with another ending"),
        ("photos/a.png", "photos/z.png", "put it there, or drop the line"),
        ("photos/a.png", "elsewhere/z.png", "put the images there"),
    ],
)
def test_a_missing_image_is_told_with_what_is_near(command, tmp_path, there, asked, hint):
    path = tmp_path / there
    path.parent.mkdir()
    Image.new("RGB", (32, 32)).save(path, "PNG")
    (tmp_path / "train.jsonl").write_text(json.dumps({"image": asked, "text": "x", "label": "no"}) + "\n")
    result = command("prepare", "jsonl", "--raw", tmp_path, "--out", tmp_path / "out")
    assert result.code == 2 and hint in result.err


def test_folders_without_permission_are_not_called_missing(command, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos/a.png")
    (tmp_path / "train.jsonl").write_text(json.dumps({"image": "photos/a.png", "text": "x", "label": "no"}) + "\n")
    real = os.scandir

    def forbidden(place="."):
        if str(place).endswith("photos"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", forbidden)  # root may look everywhere
    result = command("prepare", "jsonl", "--raw", tmp_path, "--out", tmp_path / "out")
    assert result.code == 2 and "cannot be read: Permission denied" in result.err and "no such" not in result.err


def test_there_is_one_list_of_endings(tmp_path):
    for suffix in SUFFIXES:
        assert image_key(f"photos/a{suffix}") == "a"
        assert image_name(0, 0, f"a{suffix}", b"").endswith(suffix)
    sources = [path for path in Path(image_key.__code__.co_filename).parents[2].rglob("*.py")]
    listed = [path.name for path in sources if '"webp", "' in path.read_text() or '".webp", ' in path.read_text()]
    assert listed == ["image_files.py"]


# --- index --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number in range(6):
        Image.effect_noise((40, 40), 50).convert("RGB").save(folder / f"below/{number}.jpg", quality=95)
    return folder


RUN = "runs/quickstart_dide/default/seed0"


def test_an_index_judges_all_images_before_the_first_is_encoded(world, command, well, tmp_path, photos, monkeypatch):
    last = photos / "below/5.jpg"
    last.write_bytes(last.read_bytes()[:-200])
    encoded = []
    monkeypatch.setattr(
        "vldistill.evaluation.image_index.torch.Tensor.float",
        lambda self: encoded.append(self) or self.to(__import__("torch").float32),
    )
    result = command("index", "build", RUN, photos, "--out", tmp_path / "i", "--faults", tmp_path / "f.jsonl")
    assert result.code == 2 and "5.jpg" in result.err and "truncated" in result.err and not (tmp_path / "i").exists()
    assert not encoded and [row["fault"].split(":")[0] for row in faults_of(tmp_path / "f.jsonl")] == ["image below/5.jpg"]
    monkeypatch.undo()
    monkeypatch.chdir(world)
    assert command("index", "build", RUN, photos, "--out", tmp_path / "i", "--skip-broken", "16%").code == 2
    told = well("index", "build", RUN, photos, "--out", tmp_path / "i", "--skip-broken", "17%")
    assert "left out 1 of 6 images (16.7%), being broken" in told.flat and told.last["images"] == 5
    assert ImageIndex(tmp_path / "i").manifest["left_out"] == {"lines": 0, "images": 1, "records": 1, "kept": 5}


def test_an_index_skips_and_counts_hidden_files_and_those_it_does_not_read(world, well, tmp_path, photos):
    (photos / "below/._0.jpg").write_bytes(b"\0\5\26\7")
    (photos / ".thumbs").mkdir()
    (photos / ".thumbs/0.jpg").write_bytes(b"x")
    for name in ("a.gif", "b.tif", "c.TIF", "notes"):
        (photos / name).write_bytes(b"x")
    told = well("index", "build", RUN, photos, "--out", tmp_path / "i")
    assert told.last["images"] == 6 and "skipped 1 hidden files" in told.flat
    assert "skipped 4 files that are not read (2 .tif, 1 .gif, 1 without ending)" in told.flat


def test_an_index_follows_links_where_asked(world, command, well, tmp_path, photos):
    links = tmp_path / "links"
    links.mkdir()
    for path in sorted(photos.glob("below/*.jpg"))[:2]:
        (links / path.name).symlink_to(path)
    (links / "round").symlink_to(links)
    (links / "more").symlink_to(photos / "below")
    result = command("index", "build", RUN, links, "--out", tmp_path / "i")
    assert result.code == 2 and "pass --follow-links" in result.err
    assert well("index", "build", RUN, links, "--out", tmp_path / "i", "--follow-links").last["images"] == 8


def test_a_folder_that_may_not_be_read_is_not_left_out(world, command, tmp_path, photos, monkeypatch):
    (photos / "closed").mkdir()
    real = os.scandir

    def forbidden(place="."):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", forbidden)
    result = command("index", "build", RUN, photos, "--out", tmp_path / "i", "--skip-broken", "90%")
    assert result.code == 2 and "closed: cannot be read: Permission denied" in result.err and not (tmp_path / "i").exists()


def test_pairs_to_predict_have_their_faults_written(world, command, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"image": f"{n}.png", "text": "a"}) + "\n" for n in range(25)))
    result = command("predict", RUN, "--pairs", tmp_path / "pairs.jsonl", "--faults", tmp_path / "f.jsonl")
    assert result.code == 2 and len(faults_of(tmp_path / "f.jsonl")) == 25


def test_pairs_to_predict_may_be_left_out(world, command, well, tmp_path):
    """The others keep the names and the answers that they have without them."""
    for name in ("good.png", "better.png"):
        Image.new("RGB", (36, 36), (200, len(name), 0)).save(tmp_path / name)
    (tmp_path / "broken.png").write_text("<html>404</html>")
    seconds = ("better.png", "broken.png", "none.png", "good.png")
    rows = [{"images": ["good.png", second], "text": "is there a red circle?"} for second in seconds]
    pairs, faults = tmp_path / "pairs.jsonl", tmp_path / "f.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    few = command("predict", RUN, "--pairs", pairs, "--skip-broken", "59%", "--faults", faults)
    assert few.code == 2 and "60.0% are broken, over the 59.0% of --skip-broken" in few.err and len(faults_of(faults)) == 3
    told = command("predict", RUN, "--pairs", pairs, "--skip-broken", "60%", "--faults", faults)
    assert told.code == 0 and told.err == "left out 3 of 5 (60.0%): 1 faulty lines, 2 for 2 broken images\n"
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert [answer["id"] for answer in answers] == ["1", "4"] and len(faults_of(faults)) == 3
    pairs.write_text("".join(json.dumps({"id": str(place), **rows[place - 1]}) + "\n" for place in (1, 4)))
    assert [json.loads(line) for line in well("predict", RUN, "--pairs", pairs).out.splitlines()] == answers


def test_one_pair_leaves_nothing_out(world, command):
    result = command("predict", RUN, "--image", "a.png", "--text", "a", "--skip-broken", "5%")
    assert result.code == 2 and "--skip-broken goes with --pairs" in result.err
