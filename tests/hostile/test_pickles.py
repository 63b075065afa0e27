"""Pickles that run code when they are loaded, in every file that a command reads: nothing is run, and the refusal is one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_worlds import KINDS, raw_data, read_data, read_model, save_tiny_model, seal_again
from tiny_teachers import write_bert, write_clip, write_vit

from vldistill.artifacts import file_digest
from vldistill.recipe.schema.students import official_layouts

MARKER = "executed"


class Bomb:
    """Makes a folder in the working folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MARKER,)


def plain() -> bytes:
    return pickle.dumps(Bomb(), protocol=2)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def exported() -> bytes:
    """As `torch.export` lays out a .pt2, with a pickle for its weights."""
    return archive(archive__data__weights__model=plain(), archive__version=b"0", archive__archive_format=b"pt2")


FORMS = {
    "pickle": plain,
    "torch archive": lambda: saved({"model": {"weight": Bomb()}}),
    "torch, beside weights": lambda: saved({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": Bomb()}),
    "numpy": array,
    "export": exported,
    "torch, old form": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + plain(),
}
"""Of bombs: what the file holds."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_refused(result, *names: str) -> None:
    """One line that names a file, and nothing run."""
    assert not Path(MARKER).exists(), "code was run"
    assert result.code == 2 and result.err.count("\n") == 1 and "Traceback" not in result.err, (result.code, result.err)
    assert any(name in result.err for name in names), result.err


def test_the_bombs_are_none_of_wet_powder(here):
    for name, load in (
        ("pickle", pickle.loads),
        ("numpy", lambda data: np.load(io.BytesIO(data), allow_pickle=True)),
        ("torch archive", lambda data: torch.load(io.BytesIO(data), weights_only=False)),
    ):
        load(FORMS[name]())
        (here / MARKER).rmdir()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", official_layouts())
def test_convert(kind, form, here, command):
    if kind == "oscar":
        (here / "official").mkdir()
        (here / "official" / "config.json").write_text("{}")
        path = here / "official" / "pytorch_model.bin"
    else:
        path = here / "official.pt"
    path.write_bytes(FORMS[form]())
    (here / "vocab").mkdir()
    for name, text in (
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"),
        ("vocab.json", "{}"),
        ("merges.txt", "#version: 0.2\n"),
    ):
        (here / "vocab" / name).write_text(text)
    vocabulary = here / "vocab" if kind == "meter" else here / "vocab" / "vocab.txt"
    options = () if kind in ("slip", "declip") else ("--vocab", vocabulary)
    is_refused(command("convert", kind, path.parent if kind == "oscar" else path, "out", *options), path.name)
    assert not (here / "out").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_folder(form, name, here, outcome):
    folder = save_tiny_model(here / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(FORMS[form]())
    is_refused(outcome(lambda: read_model(folder)), name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind, name",
    [
        ("timm", "model.safetensors"),
        ("timm", "pytorch_model.bin"),
        ("transformers", "model.safetensors"),
        ("transformers", "pytorch_model.bin"),
        ("open_clip", "open_clip_model.safetensors"),
        ("open_clip", "open_clip_pytorch_model.bin"),
    ],
)
def test_a_teacher(kind, name, form, here, outcome):
    from vldistill.recipe.schema.teachers import TextTeacher, VisionTeacher
    from vldistill.teachers.unimodal import build_text, build_vision

    folder = {"timm": write_vit, "transformers": write_bert, "open_clip": write_clip}[kind](here / "teacher")
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / name).write_bytes(FORMS[form]())

    def network(teacher):
        return teacher.clip.network if kind == "open_clip" else teacher.network

    make, chosen = (build_text, TextTeacher) if kind == "transformers" else (build_vision, VisionTeacher)
    is_refused(outcome(lambda: network(make(chosen(kind=kind, model=str(folder))))), str(folder))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["features.pt", "npz/a.npz", "lmdb/data.mdb", "features.zip", "features.tsv", "features.pkl", "features.npy"]
)
def test_region_features(name, form, here, command):
    path = here / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(FORMS[form]())
    raw = path.parent if path.parent != here else path
    result = command("prepare", "regions", "import", "--raw", raw, "--out", "out")
    assert not (here / MARKER).exists(), "code was run"
    assert result.code == 2 and "Traceback" not in result.err and str(raw) in result.err.splitlines()[0]
    assert not (here / "out").exists()


@pytest.mark.parametrize("content", [lambda: archive(**{"features.npy": array()}), lambda: archive(features=plain())])
def test_an_npz_of_objects(content, here, command):
    (here / "npz").mkdir()
    (here / "npz" / "coco_train2014_000000000009.npz").write_bytes(content())
    is_refused(command("prepare", "regions", "import", "--raw", "npz", "--out", "out"), "000000000009.npz")


@pytest.mark.parametrize("network", ["timm", "vlbert"])
@pytest.mark.parametrize("form", ["pickle", "torch archive"])
def test_an_image_networks_weights(network, form, here, outcome):
    from vldistill.data.regions.extract import build_backbone, build_vlbert

    (here / "resnet.pth").write_bytes(FORMS[form]())
    build = build_backbone if network == "timm" else build_vlbert
    is_refused(outcome(lambda: build(str(here / "resnet.pth"))), "resnet.pth")


@pytest.mark.parametrize("kind", ["shards", "regions", "cache", "checkpoint", "index"])
def test_an_artifact_whose_arrays_are_pickles(kind, here, outcome):
    """Even where its manifest was made to fit."""
    make, read, _ = KINDS[kind]
    whole = make(here / "whole")
    for form, content in FORMS.items():
        copy = here / "copies" / whole.name
        shutil.copytree(whole, copy)
        victims = [path for path in copy.rglob("*") if path.suffix in (".npy", ".h5", ".safetensors")]
        assert victims
        for path in victims:
            path.write_bytes(content())
            fit(copy, path)
        is_refused(outcome(lambda copy=copy: read(copy)), str(copy))
        assert form in FORMS
        shutil.rmtree(copy.parent)


def fit(folder: Path, path: Path) -> None:
    """Makes the manifest say what is there."""
    manifest = folder / "manifest.json"
    if not manifest.exists() or (path.suffix == ".h5" and "shards" in json.loads(manifest.read_text())):
        return
    value = json.loads(manifest.read_text())
    name = path.relative_to(folder).as_posix()
    for table, new in (("files", file_digest(path)), ("sizes", path.stat().st_size)):
        if name in value.get(table, {}):
            value[table][name] = new
    manifest.write_text(json.dumps(value))
    seal_again(manifest)


def test_images_that_are_pickles(here, command, outcome):
    raw_data(here / "raw")
    for form, content in FORMS.items():
        (here / "raw/images/0.png").write_bytes(content())
        result = command("prepare", "jsonl", "--raw", "raw", "--out", "out", "--min-count", "1")
        assert result.code == 2 and "images/0.png" in result.err and not (here / MARKER).exists(), form
    assert not (here / "out").exists()
    raw_data(here / "raw")
    command("prepare", "jsonl", "--raw", "raw", "--out", "out", "--min-count", "1")
    (here / "raw/images/0.png").write_bytes(plain())
    is_refused(outcome(lambda: read_data(here / "out")), "0.png")
