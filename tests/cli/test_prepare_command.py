"""`vldistill prepare` from the command line: broken data of many kinds in one pass, counts, partial and dry runs."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

GOOD = {"image": "images/a.png", "text": "Is it red?", "label": "yes"}


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """A folder of the user's own data: four training lines, one validation line, two pictures."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    for name, colour in (("a", (200, 0, 0)), ("b", (0, 0, 200))):
        Image.new("RGB", (40, 36), colour).save(folder / "images" / f"{name}.png")
    rows = [GOOD | {"id": str(i), "image": f"images/{'ab'[i % 2]}.png", "label": ["yes", "no"][i % 2]} for i in range(4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "val.jsonl").write_text(json.dumps(GOOD) + "\n")
    return folder


def append(raw: Path, *lines: dict | str) -> None:
    with (raw / "train.jsonl").open("a") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def test_own_data_becomes_an_artifact(command, raw):
    result = command("prepare", "jsonl", "--raw", raw)
    assert result.code == 0, result.err
    folder = raw.parent / "artifacts/data/jsonl"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"] and manifest["labels"] == ["no", "yes"] and manifest["task"] == "classification"
    assert {split: part["records"] for split, part in manifest["counts"].items()} == {"train": 4, "val": 1}
    assert sorted(manifest["files"]) == sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    assert manifest["command"][:3] == ["vldistill", "prepare", "jsonl"]
    assert "artifacts/data/jsonl" in result.flat and " yes " in result.flat
    assert len((folder / "train.jsonl").read_text().splitlines()) == 4


def test_all_faults_are_told_in_one_pass_and_nothing_is_written(command, raw, tree):
    (raw / "images" / "text.png").write_text("this is no picture")
    append(
        raw,
        GOOD | {"id": "5", "image": "images/missing.png"},
        '{"image": "images/a.png", "text": "cut off',
        GOOD | {"id": "0"},
        GOOD | {"id": "8", "image": "images/text.png"},
        GOOD | {"id": "9", "label": "maybe"},
    )
    before = tree(raw.parent)
    result = command("prepare", "jsonl", "--raw", raw, "--labels", "yes,no")
    assert result.code == 2 and result.out == "" and tree(raw.parent) == before
    lines = result.err.splitlines()
    assert all(line.startswith("vldistill: ") for line in lines) and "Traceback" not in result.err
    assert lines[-1] == f"vldistill: 5 problems in {raw}, nothing was written"
    expected = {5: "no such file", 6: "not valid JSON", 7: "appears twice", 8: "is not an image", 9: "'maybe'"}
    for number, reason in expected.items():
        told = [line for line in lines if line.startswith(f"vldistill: {raw}/train.jsonl:{number}: ")]
        assert len(told) == 1 and reason in told[0] and told[0].endswith(")"), (number, result.err)
    assert len(lines) == 6


@pytest.mark.parametrize(
    "faulty, reason",
    [
        (GOOD | {"id": "5", "image": "images/missing.png"}, "no such file"),
        ("{", "not valid JSON"),
        (GOOD | {"id": "0"}, "appears twice"),
        (GOOD | {"id": "5", "text": " "}, "is empty"),
    ],
)
def test_one_fault_is_one_line(command, raw, faulty, reason):
    append(raw, faulty)
    result = command("prepare", "jsonl", "--raw", raw)
    assert result.code == 2 and result.err.count("\n") == 1 and reason in result.err
    assert result.err.startswith(f"vldistill: {raw}/train.jsonl:5: ") and not (raw.parent / "artifacts").exists()


def test_a_dry_run_checks_and_writes_nothing(command, raw, tree):
    before = tree(raw.parent)
    result = command("prepare", "jsonl", "--raw", raw, "--dry-run")
    assert result.code == 0 and "would write artifacts/data/jsonl" in result.flat
    append(raw, "{")
    before = tree(raw.parent)
    assert command("prepare", "jsonl", "--raw", raw, "--dry-run").code == 2
    assert command("prepare", "toy", "--dry-run").code == 0
    assert tree(raw.parent) == before


def test_a_limit_is_marked_partial_as_is_what_is_trained_on_it(command, raw):
    assert command("prepare", "jsonl", "--raw", raw, "--limit", "2", "--out", "few").code == 0
    manifest = json.loads((raw.parent / "few/manifest.json").read_text())
    assert manifest["partial"] is True and manifest["counts"]["train"]["records"] == 2


def test_only_the_splits_asked_for_are_written(command, world, tmp_path):
    raw = "artifacts/raw/toy/nlvr2"
    assert command("prepare", "nlvr2", "--raw", raw, "--splits", "val,test", "--out", tmp_path / "some").code == 0
    assert {path.name for path in (tmp_path / "some").glob("*.jsonl")} == {"val.jsonl", "test.jsonl", "images.jsonl"}


def test_overwrite_replaces_an_artifact(command, raw):
    assert command("prepare", "jsonl", "--raw", raw).code == 0
    first = json.loads((raw.parent / "artifacts/data/jsonl/manifest.json").read_text())["fingerprint"]
    append(raw, GOOD | {"id": "5"})
    assert command("prepare", "jsonl", "--raw", raw).code == 2
    assert command("prepare", "jsonl", "--raw", raw, "--overwrite").code == 0
    assert json.loads((raw.parent / "artifacts/data/jsonl/manifest.json").read_text())["fingerprint"] != first


@pytest.mark.parametrize("moment", ["check_images", "take"])
def test_an_interruption_leaves_no_artifact_and_the_one_before(command, raw, monkeypatch, tree, moment):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    assert command("prepare", "jsonl", "--raw", raw, "--out", "kept").code == 0
    before = tree(raw.parent)
    place = {"check_images": "vldistill.data.image_files.check_images", "take": "vldistill.data.writing.RecordWriter.take"}
    with monkeypatch.context() as patch:
        patch.setattr(place[moment], interrupted)
        assert command("prepare", "jsonl", "--raw", raw, "--out", "new").code == 130
        assert command("prepare", "jsonl", "--raw", raw, "--out", "kept", "--overwrite").code == 130
    assert tree(raw.parent) == before
    assert command("prepare", "jsonl", "--raw", raw, "--out", "new").code == 0


def test_a_refused_toy_world_leaves_nothing_that_blocks_the_next(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = command("prepare", "toy", "--scale", "0.001", "--labels", "a,b")
    assert refused.code == 2 and "labels" in refused.err
    assert list(tmp_path.rglob("*.json*")) == []


def test_a_refused_toy_world_leaves_the_one_before(command, tmp_path, monkeypatch, tree):
    monkeypatch.chdir(tmp_path)
    assert command("prepare", "toy", "--scale", "0.001", "--min-count", "1").code == 0
    before = tree(tmp_path)
    for words in (["--scale", "0"], ["--scale", "0.001", "--min-count", "100000"]):
        assert command("prepare", "toy", "--overwrite", *words).code == 2
        assert tree(tmp_path) == before


def test_a_toy_world_that_is_there_is_kept_and_what_is_missing_is_added(command, tmp_path, monkeypatch, tree):
    monkeypatch.chdir(tmp_path)
    words = ("prepare", "toy", "--scale", "0.001", "--min-count", "1", "--datasets")
    assert command(*words, "vqa").code == 0
    before = tree(tmp_path)
    more = command(*words, "vqa,nlvr2")
    assert more.code == 0 and "up to date: artifacts/data/toy-vqa" in more.flat and "wrote artifacts/data/toy-nlvr2" in more.flat
    assert before.items() <= tree(tmp_path).items()
    before = tree(tmp_path)
    other = command(*words, "nlvr2", "--seed", "1")
    assert other.code == 2 and "toy/nlvr2: is a toy world of --seed 0 --scale 0.001" in other.err and "--overwrite" in other.err
    assert tree(tmp_path) == before


def test_the_toy_world_keeps_to_its_options(command, tmp_path, monkeypatch):
    """An option that means nothing for the toy world is refused, not passed over."""
    monkeypatch.chdir(tmp_path)
    assert command("prepare", "toy", "--scale", "0.001", "--limit", "3", "--dry-run").code == 2


def test_low_shot_draws_of_the_toy_vcr_are_shown_beside_the_published_shares(command, world, tmp_path):
    words = ("prepare", "vcr", "--raw", "artifacts/raw/toy/vcr", "--out", tmp_path / "vcr", "--lowshot", "1,100")
    result = command(*words)
    assert result.code == 0, result.err
    rows = {
        cells[0]: cells[1:]
        for line in result.out.split("low-shot, 1 questions")[1].splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│ ").split("│")]) == 8
    }
    published = {"explanation": 38, "activity": 24, "temporal": 13, "mental": 8, "role": 7, "scene": 5, "hypothetical": 5}
    assert {name: rows[name][2] for name in published} == {name: f"{share} %" for name, share in published.items()}
    assert abs(sum(float(rows[name][1].removesuffix(" %")) for name in published) - 100) < 0.5
    manifest = json.loads((tmp_path / "vcr/manifest.json").read_text())
    for seed in range(4):
        lines = [json.loads(line) for line in (tmp_path / f"vcr/train-lowshot1-seed{seed}.jsonl").read_text().splitlines()]
        counts = manifest["variants"][f"train-lowshot1-seed{seed}"]["by_type"]
        assert len(lines) == 2 * sum(count["got"] for count in counts.values()) and "given" in lines[1]
    # A world this small has no 100 questions of any type: one note for the four draws, which lack the same.
    notes = [line for line in result.out.splitlines() if "fewer than 100 questions" in line]
    assert len(notes) == 1 and all(f"train-lowshot100-seed{seed}" in notes[0] for seed in range(4))
    assert "0.3 %" in result.out.split("low-shot, 100 questions")[1]
    again = command(*words[:-1], "100")
    assert again.code == 0 and "up to date" in again.out


def test_a_dry_run_tells_what_it_would_add(well, world, tmp_path, tree):
    words = ("prepare", "vcr", "--raw", "artifacts/raw/toy/vcr", "--out", tmp_path / "vcr")
    well(*words)
    before = tree(tmp_path)
    shown = well(*words, "--lowshot", "1", "--seeds", "0,0,2", "--dry-run").flat
    assert f"would add train-lowshot1-seed0, train-lowshot1-seed2 to {tmp_path / 'vcr'}" in shown and "up to date" not in shown
    assert "train-statements and shards to" in well(*words, "--statements", "--shards", "9", "--dry-run").flat
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "words, reason",
    [
        ("list --raw x", "--raw means nothing for list"),
        ("vcr --raw x --seeds 1", "--seeds goes with --lowshot"),
        (f"vcr --raw x --lowshot 5 --seeds {'1' * 5000}", "is not a list of whole numbers"),
        ("regions --raw / --format npz", "/: gives the store no name"),
    ],
)
def test_what_is_given_in_vain_is_one_line(command, words, reason):
    result = command("prepare", *words.split())
    assert result.code == 2 and result.err.count("\n") == 1 and reason in result.err and len(result.err) < 200


@pytest.mark.parametrize(
    "raw, name", [(".hid", "hid"), ("v1.1", "v1.1"), ("a.b.tsv", "a.b"), ("db/data.mdb", "db"), ("raw.zip", "raw.zip")]
)
def test_a_store_is_called_after_its_source(well, tmp_path, monkeypatch, raw, name):
    monkeypatch.chdir(tmp_path)
    if Path(raw).suffix in (".tsv", ".mdb"):
        Path(raw).parent.mkdir(exist_ok=True)
        Path(raw).touch()
    else:
        Path(raw).mkdir()
        Path(raw, "a.npz").touch()
    assert (
        f"artifacts/regions/{name} "
        in well("prepare", "regions", "import", "--raw", raw, "--boxes", "36,36", "--dry-run").flat + " "
    )


@pytest.fixture
def downloads(raw) -> Path:
    """The same data as it is downloaded: train.jsonl and the pictures in archives, val.jsonl beside them."""
    folder = raw.parent / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        archive.write(raw / "train.jsonl", "train.jsonl")
    with tarfile.open(folder / "images.tar.gz", "w:gz") as archive:
        archive.add(raw / "images", "images")
    (raw / "val.jsonl").rename(folder / "val.jsonl")
    return folder


def test_an_archive_is_unpacked_and_read(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6)).save("1.jpg")
    row = {"pairID": "1.jpg#0r1e", "Flickr30K_ID": "1", "gold_label": "neutral", "sentence1": "A dog.", "sentence2": "It runs."}
    with zipfile.ZipFile("snli.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("1.jpg", "flickr30k-images/1.jpg")
        for split in ("train", "dev"):
            archive.writestr(f"snli_ve_{split}.jsonl", json.dumps(row) + "\n")
    result = command("prepare", "snli-ve", "--raw", "snli.zip")
    assert result.code == 0, result.err
    size = sum(len(member) for member in (Path("1.jpg").read_bytes(), 2 * (json.dumps(row) + "\n")))
    assert result.out.startswith(f"unpacked 1 archive, 3 files, {size} bytes into artifacts/raw/snli_ve\n")
    manifest = json.loads((tmp_path / "artifacts/data/snli_ve/manifest.json").read_text())
    assert {split: part["records"] for split, part in manifest["counts"].items()} == {"train": 1, "val": 1}
    assert manifest["raw_root"] == str(tmp_path / "artifacts/raw/snli_ve")
    again = command("prepare", "snli-ve", "--raw", "snli.zip")
    assert again.code == 0 and again.out.startswith("already unpacked: artifacts/raw/snli_ve\nup to date: ")


def test_a_folder_of_archives_is_unpacked_where_told(command, downloads):
    dry = command("prepare", "jsonl", "--raw", downloads, "--unpack", "there", "--dry-run")
    assert dry.code == 0 and "would unpack annotations.zip, images.tar.gz would copy val.jsonl into there" in dry.flat
    assert not Path("there").exists() and not Path("artifacts").exists()
    result = command("prepare", "jsonl", "--raw", downloads, "--unpack", "there")
    assert result.code == 0, result.err
    assert "unpacked 2 archives, 4 files," in result.flat and "wrote artifacts/data/jsonl" in result.flat
    assert {path.name for path in Path("there").iterdir()} == {"train.jsonl", "val.jsonl", "images", "manifest.json"}
    # A dry run of what was unpacked before checks the data.
    dry = command("prepare", "jsonl", "--raw", downloads, "--unpack", "there", "--out", "new", "--dry-run")
    assert "already unpacked: there" in dry.flat and "would write new" in dry.flat and not Path("new").exists()


def test_refused_archives_are_lines_and_leave_nothing(command, downloads, tree):
    with zipfile.ZipFile(downloads / "evil.zip", "w") as archive:
        archive.writestr("../../evil", "1")
        archive.writestr("Train.jsonl", "2")
    before = tree(downloads.parent)
    result = command("prepare", "jsonl", "--raw", downloads, "--unpack", "new/there")
    assert result.code == 2 and result.out == "" and tree(downloads.parent) == before
    lines = result.err.splitlines()
    assert len(lines) == 3 and lines[-1] == f"vldistill: 2 problems in {downloads}, nothing was written"
    assert lines[0].startswith(f"vldistill: {downloads}/evil.zip:../../evil: leaves the folder by `..` (")
    assert lines[1].startswith(f"vldistill: {downloads}/evil.zip:Train.jsonl: differs from train.jsonl in case alone")


@pytest.mark.parametrize(
    "words, reason",
    [
        ("toy --unpack there", "--unpack means nothing for toy"),
        ("jsonl --raw raw --unpack there", "raw/images: is a folder beside the archives"),
        ("jsonl --raw raw/train.jsonl --unpack there", "raw/train.jsonl: is no archive"),
        ("jsonl --raw nothing --unpack there", "nothing: no such file or folder"),
        ("jsonl --raw nothing.zip", "nothing.zip: no such folder"),
        ("vqa --raw downloads", "does not look like VQA v2: found annotations.zip, images.tar.gz, val.jsonl (expected"),
        ("vqa --raw downloads", "; its archives can be unpacked first: --unpack DIR)"),
        # Told before the work, not after it.
        ("vqa --raw downloads --unpack there --labels a,b", "labels means nothing for vqa"),
        ("jsonl --raw downloads --unpack there --out raw", "raw: already exists"),
        ("jsonl --raw downloads --unpack raw --overwrite", "raw: already exists, and was not made by unpacking"),
    ],
)
def test_what_cannot_be_unpacked_is_one_line(command, downloads, tree, words, reason):
    before = tree(downloads.parent)
    result = command("prepare", *words.split())
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1 and reason in result.err, result.err
    assert tree(downloads.parent) == before


@pytest.mark.parametrize(
    "words, reason",
    [
        ("jsonl --raw data/raw --out data", "data: holds what the command reads"),
        ("jsonl --raw data --out data", "data: is what the command reads"),
        ("regions --data data --weights random --out data", "data: is what the command reads"),
        ("regions --data data --weights random --out other", "other: is an artifact of `prepare`"),
        ("jsonl --raw downloads --unpack data --out data", "data: is what the command reads"),
        ("jsonl --raw downloads --unpack there --out there/data", "there/data: is where the archives are unpacked"),
        ("toy --datasets vqa --raw world --out ready", "ready/toy-vqa: is an artifact of `toy`"),
    ],
)
def test_overwrite_removes_neither_its_input_nor_another_kind(command, well, raw, downloads, tree, words, reason):
    (downloads / "val.jsonl").rename(raw / "val.jsonl")
    for name in ("data", "other"):
        well("prepare", "jsonl", "--raw", raw, "--out", name)
    shutil.copytree(raw, "data/raw")
    Path("ready/toy-vqa").mkdir(parents=True)
    Path("ready/toy-vqa/manifest.json").write_text('{"stage": "toy"}')
    before = tree(downloads.parent)
    result = command("prepare", *words.split(), "--overwrite")
    assert result.code == 2 and result.err.count("\n") == 1 and reason in result.err, result.err
    assert tree(downloads.parent) == before


def test_an_interrupted_unpacking_leaves_nothing(command, downloads, tree, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    before = tree(downloads.parent)
    monkeypatch.setattr("vldistill.data.unpack._Unpacking._write", interrupted)
    assert command("prepare", "jsonl", "--raw", downloads, "--unpack", "there").code == 130
    assert tree(downloads.parent) == before
