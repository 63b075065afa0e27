"""How image files are read: upright or as stored, and up to how many pixels; from recipe and `prepare` to all later commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vldistill.artifacts import read_manifest
from vldistill.data.image_files import MAX_PIXELS, open_image

TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_270,
    8: Image.Transpose.ROTATE_90,
}
"""What a viewer does, by EXIF's number."""
SIZES = [f"student.sizes.{size}" for size in ("width=16", "feedforward=16", "layers=1", "heads=2", "image_size=48", "patch=12")]


def photo(path: Path, seed: int, orientation: int | None) -> Image.Image:
    """Noise, stored with an orientation."""
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (36, 48, 3), dtype=np.uint8))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return image


@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_is_turned_where_that_is_asked(tmp_path, orientation):
    stored = photo(tmp_path / "a.png", 0, orientation)
    assert np.array_equal(open_image(tmp_path / "a.png"), stored)
    seen = stored if TURNS[orientation] is None else stored.transpose(TURNS[orientation])
    assert np.array_equal(open_image(tmp_path / "a.png", upright=True), seen)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, well) -> dict[str, Path]:
    """The same photos turned by their EXIF data, and turned in their pixels; of files and of shards."""
    found = {}
    for name in ("exif", "pixels", "shards"):
        raw = tmp_path_factory.mktemp(name)
        for number in range(6):
            image = photo(raw / f"{number}.png", number, 6)
            if name == "pixels":
                image.transpose(TURNS[6]).save(raw / f"{number}.png")
        rows = [{"image": f"{n}.png", "text": "is it red?", "label": ["no", "yes"][n % 2]} for n in range(6)]
        for split in ("train", "val"):
            (raw / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        well("prepare", "jsonl", "--raw", raw, "--out", raw / "data", *(["--shards", "2"] if name == "shards" else []))
        found[name] = raw / "data"
    return found


def test_a_run_that_sees_images_upright_does_so_in_every_later_command(worlds, well, command, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fresh = ["student.init=null", "image.size=36", *few, *SIZES]
    runs = {}
    for name, exif in (("exif", "true"), ("pixels", "false"), ("shards", "true"), ("stored", "false")):
        data = worlds["exif" if name == "stored" else name]
        runs[name] = well(
            "finetune", "-r", "quickstart_dide", *fresh, f"data.path={data}", f"image.exif={exif}", "--name", name
        ).last["run"]
    config = json.loads((Path(runs["exif"]) / "model/config.json").read_text())
    assert config["vldistill"]["upright"] is True
    told = {}
    for name, run in runs.items():
        folder = Path(run)
        told[name] = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines() if "loss" in line]
        well("evaluate", run)
        told[name].append((folder / "eval/val/predictions.jsonl").read_text())
    assert told["exif"] == told["pixels"] == told["shards"] != told["stored"]
    first = {name: worlds[name].parent / "0.png" for name in ("exif", "pixels")}
    answers = [well("predict", runs["exif"], "--image", first[name], "--text", "is it red?").last for name in ("exif", "pixels")]
    assert answers[0] == answers[1]
    well("index", "build", runs["exif"], worlds["exif"].parent, "--out", tmp_path / "i")
    assert read_manifest(tmp_path / "i", "index", make_it="")["model"]["upright"] is True
    result = command("finetune", "-r", "advl_uniter", "image.exif=true", "--dry-run")
    assert result.code == 2 and "does not see by themselves" in result.err


def test_more_pixels_are_read_where_prepare_was_told_so(well, command, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    Image.new("L", (5300, 5000)).save(tmp_path / "raw/a.png")
    assert MAX_PIXELS < 5300 * 5000
    rows = [{"image": "a.png", "text": "is it red?", "label": label} for label in ("no", "yes")]
    for split in ("train", "val"):
        (tmp_path / f"raw/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("prepare", "jsonl", "--raw", "raw", "--out", "data")
    result = command(*common)
    assert result.code == 2 and "over the cap of 25,000,000 (resize it, or allow more with --max-pixels" in result.err
    well(*common, "--max-pixels", "30000000")
    assert "up to date" in well(*common, "--max-pixels", "30000000").out
    well("finetune", "-r", "quickstart_teacher", "data.path=data", "student.init=null", *few, *SIZES)
