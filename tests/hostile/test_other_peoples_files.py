"""Files of others run no code, lead nowhere else, and end no command without a word: recipes, model folders, artifacts, runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_teachers import write_bert

from vldistill.artifacts import file_digest, write_manifest
from vldistill.errors import InputError
from vldistill.evaluation.report.tables import TextTable, _plain, to_latex, to_markdown
from vldistill.models.base.family import families
from vldistill.recipe.load import load_recipe, recipe_fields, shipped_recipes
from vldistill.recipe.schema.base import is_folder_name
from vldistill.store.layout import Column
from vldistill.teachers.cache import CacheWriter, FeatureCache

DIDE, TEACHER = "runs/quickstart_dide/default/seed0", "runs/quickstart_teacher/default/seed0"


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """A command that waits for ever fails the test instead."""

    def ring(number, frame):
        raise AssertionError("the command waits without end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(told, *words: str) -> None:
    assert told.code == 2 and len(told.err.splitlines()) == 1, told.err
    for word in words:
        assert word in told.err


# --- code --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["null", "random"])
def test_a_teachers_folder_runs_no_code(weights, world, command, tmp_path, monkeypatch):
    folder, marker = write_bert(tmp_path / "teacher"), tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nfrom transformers import BertConfig as C, BertModel as M\n"
    )
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": ["own.C", None]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    told = command(
        "cache",
        "-r",
        "advl_vilt_vqa",
        "data.path=artifacts/data/toy-vqa",
        "objective.vision=false",
        f"teachers.text={{kind: transformers, model: {folder}, weights: {weights}}}",
        "teachers.vision=null",
        "teachers.relevance=null",
        f"cache.path={tmp_path / 'cache'}",
    )
    refused(told, str(folder))
    assert not marker.exists() and "[y/N]" not in told.out + told.err


# --- names and links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../../x", "/abs/x", "a/b", ".hidden", "..", "a\0b", "a\nb", "~x", "a\\b"])
def test_a_recipe_does_not_choose_where_it_writes(name, world, command, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "recipes/quickstart_teacher.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(f"name: {json.dumps(name)}\n{text}")
    refused(command("finetune", "-r", tmp_path / "mine.yaml", "--runs", tmp_path / "runs", "train.steps=2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"] and not is_folder_name(name)


@pytest.fixture
def artifact(world, tmp_path) -> Path:
    return shutil.copytree(world / "artifacts/data/toy-nlvr2", tmp_path / "artifact")


def with_images(artifact: Path, image: str) -> None:
    """The artifact with another path for its first images, sealed as somebody else would."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in ("train.jsonl", "val.jsonl", "test.jsonl", "images.jsonl"):
        rows = [json.loads(line) for line in (artifact / name).read_text().splitlines()]
        rows[0] |= {"path": image} if name == "images.jsonl" else {"images": [image, *rows[0]["images"][1:]]}
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (artifact / name).write_text(text)
        manifest["files"][name] = file_digest(artifact / name)
        manifest.setdefault("sizes", {})[name] = len(text.encode())
    write_manifest(artifact, manifest)


@pytest.mark.parametrize(
    "line",
    [
        f"evaluate {DIDE} --data {{data}} --out {{out}}",
        f"index build {DIDE} {{data}} --out {{out}}",
        "finetune -r quickstart_teacher data.path={data} --runs {out} train.steps=1 train.batch.pairs=480",
    ],
)
@pytest.mark.parametrize("image", ["absolute", "above"])
def test_an_artifact_does_not_choose_what_is_read(image, line, world, artifact, command, tmp_path):
    picture = next((world / "artifacts/raw/toy/vqa/train2014").glob("*.jpg")).resolve()
    raw = Path(json.loads((artifact / "manifest.json").read_text())["raw_root"])
    with_images(artifact, str(picture) if image == "absolute" else os.path.relpath(picture, raw))
    refused(command(*line.format(data=artifact, out=tmp_path / "out").split()), "leaves the raw folder")


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt", "model", "checkpoints"])
def test_nothing_is_written_behind_a_link_of_a_run(name, world, command, few, tmp_path):
    run = tmp_path / "runs/quickstart_teacher/x/seed0"
    shutil.copytree(world / TEACHER, run)
    other = tmp_path / "other"
    other.mkdir() if name in ("model", "checkpoints") else other.write_text("mine")
    manifest = json.loads((run / "manifest.json").read_text())
    write_manifest(run, manifest | {"complete": False, "status": "preempted"})
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(other)
    told = command("finetune", "-r", "quickstart_teacher", "--name", "x", "--runs", tmp_path / "runs", "--resume", "auto", *few)
    refused(told, f"{name}: is a link")
    assert not list(other.iterdir()) if other.is_dir() else other.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("eval", "evaluate {run}"),
        ("eval/val", "evaluate {run}"),
        ("figures", "analyze {run} --attention --samples 1"),
    ],
)
def test_nor_behind_its_evaluations(name, line, world, command, tmp_path):
    run, other = shutil.copytree(world / DIDE, tmp_path / "run"), tmp_path / "other"
    other.mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(other)
    refused(command(*line.format(run=run).split()), "is a link")
    assert not list(other.iterdir())


@pytest.mark.parametrize("suffix", ["h5", "json"])
def test_nor_behind_a_shard_of_a_cache(suffix, tmp_path):
    columns = (Column("pooled", "float16", (4,)),)
    keys = np.random.default_rng(0).integers(0, 256, (8, 20), np.uint8)

    def put(count: int) -> Path:
        with CacheWriter(tmp_path, "teacher", {"teacher": "t"}, columns) as writer:
            left = keys[writer.pending(keys).indices]
            writer.put(left[:count], {"pooled": np.zeros((len(left[:count]), 4), np.float16)})
        return writer.folder

    folder = put(3)
    other = shutil.copy(folder / f"shard-0000.{suffix}", tmp_path / "other")
    (folder / f"shard-0001.{suffix}").symlink_to(other)
    before = Path(other).read_bytes()
    put(5)
    assert Path(other).read_bytes() == before and not (folder / f"shard-0001.{suffix}").is_symlink()
    assert len(FeatureCache(folder)) == 8


# --- no end ------------------------------------------------------------------------------------------------------------------

READERS = {
    "test.jsonl": "evaluate {run} --data {data} --split test --out {out}",
    "manifest.json": "evaluate {run} --data {data} --out {out}",
    "run/manifest.json": "evaluate {run} --out {out}",
    "run/model/config.json": "evaluate {run} --out {out}",
    "run/model/model.safetensors": "evaluate {run} --out {out}",
    "run/eval/val/metrics.json": "compare {run} {run}",
    "run/eval/val/predictions.jsonl": "compare {run} {run}",
    "run/metrics.jsonl": "report {run}",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder"])
def test_what_is_no_file_is_not_waited_for(kind, name, world, artifact, command, tmp_path):
    run = shutil.copytree(world / DIDE, tmp_path / "run")
    if "eval" in name:
        assert command("evaluate", run).code == 0
    path = (artifact if "/" not in name else tmp_path) / name
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir}.get(kind, lambda: path.symlink_to(kind))()
    with within(30):
        told = command(*READERS[name].format(run=run, data=artifact, out=tmp_path / "out").split())
    if name == "run/metrics.jsonl":  # a report names what is wrong with a run, and goes on
        assert told.code in (0, 2)
    else:
        refused(told)


# --- sizes -------------------------------------------------------------------------------------------------------------------

WHOLE = {
    name: path.stem
    for path in shipped_recipes()
    for name, value in recipe_fields(load_recipe(str(path)))
    if type(value) is int and (path.stem.startswith("quickstart") or name.startswith("student."))
}
"""Every number of the quick start's recipes and of any student, by its name; a recipe that has it."""


@pytest.mark.parametrize("name, recipe", WHOLE.items())
def test_a_recipe_with_an_absurd_number(name, recipe, command):
    refused(command("recipe", "show", recipe, f"{name}={10**30}"), name)


def test_numbers_are_looked_at():
    assert len(WHOLE) >= 25


@pytest.mark.parametrize(
    "sizes",
    [
        "layers: 1024, width: 131072, heads: 1024, feedforward: 131072",
        "layers: 1024, width: 16384, heads: 1, feedforward: 131072",
    ],
)
def test_a_student_that_no_machine_holds(sizes, world, command):
    told = command("finetune", "-r", "quickstart_pretrain", "--dry-run", f"student.sizes={{{sizes}}}", "student.init=null")
    refused(told, "this machine has")


NUMBERS = {name for family in families() for name, field in family.config.__dataclass_fields__.items() if field.type == "int"}


@pytest.mark.parametrize("number", [10**12, -1, 10**400])
@pytest.mark.parametrize(
    "name",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_a_model_with_an_absurd_number(number, name, world, command, tmp_path):
    folder = shutil.copytree(world / TEACHER / "model", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    text = json.dumps(config | {name: "NUMBER"}).replace('"NUMBER"', str(number))
    (folder / "config.json").write_text(text)
    refused(command("evaluate", folder, "--data", "artifacts/data/toy-nlvr2", "--out", tmp_path / "out"))
    assert name in NUMBERS


# --- tables ------------------------------------------------------------------------------------------------------------------

HOSTILE = "=cmd|'/C calc'!A0\n<script>alert(1)</script>"


def test_tables_show_names_and_do_nothing_else():
    table = TextTable(("run", "test"), ((HOSTILE, "1.0"),), (False, True))
    lines = to_markdown(table).splitlines()
    assert len(lines) == 3 and "<script>" not in lines[2] and lines[2].replace("\\|", "").count("|") == 3
    assert len(to_latex(table).splitlines()) == 7
    for sign in "=+-@":
        assert _plain(f"{sign}1+1").startswith("'")
    assert _plain("quickstart_dide") == "quickstart_dide" and "\n" not in _plain(HOSTILE)


def test_a_dollar_sign_in_a_runs_name(world, command, well, tmp_path):
    """Matplotlib would read what stands between two of them as a formula, and fail where it is none."""
    for place, name in enumerate(("a$\\frac$", "b$x_{$")):
        folder = tmp_path / "runs" / "mine" / name / "seed0"
        shutil.copytree(world / TEACHER, folder)
        assert folder.parents[1].name == "mine", place
    well("report", tmp_path / "runs", "--out", tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text()
    assert "a$\\frac$" in page and "svg" in page


def test_a_name_is_plain():
    assert all(map(is_folder_name, ["a", "quickstart_dide", "lr-1e-4", "a.b=c+d", "my recipe (2)", "教师"]))
    with pytest.raises(InputError):
        load_recipe("quickstart_dide", ["name=../x"])
