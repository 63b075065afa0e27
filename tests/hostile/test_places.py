"""Every stage works in folders of any name and through links, reads raw files without touching them, and asks no network."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hostile_worlds import raw_data
from mutations import tree_of

NAMES = ["with space Ünïcödé 画像", '-it\'s "quoted" back\\slash', "a[b]*?{c} $HOME ~ %s {0}", "line\nbreak"]
RECIPE = """
data: {{path: {data}}}
image: {{size: 36}}
text: {{max_length: 16, vocabulary_size: 120}}
student: {{kind: {kind}{more}}}
{rest}
objective: {{kind: {objective}}}
train: {{steps: 2, batch: {{pairs: 2}}, eval_pairs: 2, checkpoint_every: 1}}
"""
SIZES = ", sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}"


def quoted(path: Path) -> str:
    """For YAML."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def times(paths: list[Path]) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_mode) for path in paths}


def all_stages(well, place: Path, raw: Path) -> dict[str, Path]:
    """Runs every stage with all that it makes below `place`; returns where things are."""
    at = {name: place / name for name in ("data", "runs", "index", "answers", "page", "teacher.yaml", "dide.yaml")}
    well("prepare", "jsonl", "--raw", raw, "--out", at["data"], "--min-count", "1", "--shards", "2")
    at["teacher.yaml"].write_text(RECIPE.format(data=quoted(at["data"]), kind="vilt", more=SIZES, rest="", objective="labels"))
    well("finetune", "--recipe", at["teacher.yaml"], "--runs", at["runs"], "--name", "a")
    teacher = at["runs"] / "teacher" / "a" / "seed0"
    rest = f"teacher: {{kind: vilt, model: {quoted(teacher)}}}"
    at["dide.yaml"].write_text(
        RECIPE.format(
            data=quoted(at["data"]), kind="dual_encoder", more=f", init: {quoted(teacher)}", rest=rest, objective="dide"
        )
    )
    well("distill", "--recipe", at["dide.yaml"], "--runs", at["runs"], "--name", "a", "--resume", "auto")
    student = at["runs"] / "dide" / "a" / "seed0"
    for run in (teacher, student):
        well("evaluate", run)
    well("compare", teacher, student)
    well("index", "build", student, raw / "images", "--out", at["index"])
    well("index", "query", at["index"], "a red square", "--answer", "yes")
    well("predict", student, "--image", raw / "images" / "0.png", "--text", "is it red ?")
    well("report", at["runs"], "--out", at["page"])
    assert (at["page"] / "index.html").exists() or any(at["page"].iterdir())
    return at


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name(name, tmp_path, well, monkeypatch):
    place = tmp_path / name
    place.mkdir()
    raw = raw_data(place / "raw")
    before = tree_of(raw)
    monkeypatch.chdir(tmp_path)
    well("prepare", "jsonl", "--raw", raw, "--out", place / "data", "--min-count", "1", "--shards", "2")
    recipe = RECIPE.format(data=quoted(place / "data"), kind="vilt", more=SIZES, rest="", objective="labels")
    (place / "r.yaml").write_text(recipe)
    well("finetune", "--recipe", place / "r.yaml", "--runs", place / "runs", "--name", "a")
    well("evaluate", place / "runs/r/a/seed0")
    assert tree_of(raw) == before
    # And nothing beside it, where a name was taken for something else.
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_leading_dash_alone(tmp_path, well, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw_data(tmp_path / "-raw")
    well("prepare", "jsonl", "--raw=-raw", "--out=-data", "--min-count", "1")
    assert (tmp_path / "-data" / "manifest.json").exists()


def test_every_stage_through_links_and_without_touching_what_is_raw(tmp_path, well, monkeypatch):
    real, raw = tmp_path / "real", raw_data(tmp_path / "read only" / "raw")
    real.mkdir()
    (tmp_path / "linked").symlink_to(real)
    (tmp_path / "raw").symlink_to(raw)
    monkeypatch.chdir(tmp_path)
    everything = [raw.parent, *raw.parent.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = times(everything)
    try:
        all_stages(well, tmp_path / "linked", tmp_path / "raw")
        # A folder's time would change even where something only came and went, as for a user whom no mode stops.
        assert times([raw.parent, *raw.parent.rglob("*")]) == before
    finally:
        for path in everything:
            path.chmod(0o755)
    assert sorted(path.name for path in real.iterdir()) == ["data", "dide.yaml", "index", "page", "runs", "teacher.yaml"]


def test_no_stage_asks_the_network(tmp_path, well, monkeypatch):
    """With local paths, and with the hub's library told that it is online."""
    from huggingface_hub import constants

    def refuse(*given, **_):
        raise AssertionError(f"a connection was tried: {given}")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    all_stages(well, tmp_path, raw_data(tmp_path / "raw"))


SECRET = "secret.png"


@pytest.mark.parametrize(
    "path",
    [
        f"../{SECRET}",
        f"images/../../{SECRET}",
        "~/x.png",
        "$HOME/x.png",
        "${SECRET}",
        "/etc/hostname",
        "link.png",
        "folder/secret.png",
        "loop/secret.png",
    ],
)
def test_an_image_outside_of_the_raw_folder_is_not_read(path, tmp_path, command, monkeypatch):
    raw = raw_data(tmp_path / "raw")
    (raw / "images/0.png").rename(tmp_path / SECRET)
    monkeypatch.setenv("SECRET", str(tmp_path / SECRET))
    monkeypatch.setenv("HOME", str(tmp_path))
    (raw / "link.png").symlink_to(tmp_path / SECRET)
    (raw / "folder").symlink_to(tmp_path)
    (raw / "loop").symlink_to(raw / "loop")
    for split in ("train", "val"):
        text = (raw / f"{split}.jsonl").read_text().replace("images/0.png", path)
        (raw / f"{split}.jsonl").write_text(text)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda place, *given, **named: (opened.append(str(place)), real(place, *given, **named))[1])
    result = command("prepare", "jsonl", "--raw", raw, "--out", tmp_path / "out", "--min-count", "1")
    assert result.code == 2 and "train.jsonl:1" in result.err and not (tmp_path / "out").exists()
    assert not [place for place in opened if Path(place).resolve() == tmp_path / SECRET]


def test_a_recipe_s_paths_are_taken_as_they_are_written(tmp_path, command, well, monkeypatch):
    """`$VAR` in a recipe's data is nothing but a name; `~/` is opened, as the shell does it."""
    raw_data(tmp_path / "raw")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    well("prepare", "jsonl", "--raw", "raw", "--out", "data", "--min-count", "1")
    for path in ("$DATA", "${DATA}", "~data", "~"):
        (tmp_path / "r.yaml").write_text(RECIPE.format(data=f'"{path}"', kind="vilt", more=SIZES, rest="", objective="labels"))
        result = command("finetune", "--recipe", "r.yaml", "--name", "a")
        assert result.code == 2 and f"{path}: no such artifact" in result.err and not (tmp_path / "runs").exists()
    (tmp_path / "r.yaml").write_text(RECIPE.format(data='"~/data"', kind="vilt", more=SIZES, rest="", objective="labels"))
    well("finetune", "--recipe", "r.yaml", "--dry-run")
