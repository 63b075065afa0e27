"""Stored values under other versions of the libraries that decided them: told in one line wherever they are used, and not mixed
with new ones unless that is asked for.

It goes over the product's own tables: all stages that write a manifest, and all libraries that it depends on."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from workshop import make_unfinished, run_of

import vldistill
from vldistill import versions
from vldistill.artifacts import RUN_STAGES, sealed
from vldistill.errors import InputError
from vldistill.store import uses
from vldistill.store.layout import Column
from vldistill.teachers.cache import CacheWriter
from vldistill.versions import DECIDING, LATER, LIBRARIES, differences, installed, refuse_mixing

PACKAGE = Path(vldistill.__file__).resolve().parent
HARMLESS = {
    "accelerate": "moves batches and weights",
    "safetensors": "bytes of weights",
    "huggingface_hub": "fetches files, which digests tell apart",
    "pydantic": "reads recipes",
    "typer": "reads the command line",
    "typing_extensions": "tells type checkers of sections",
    "rich": "prints",
    "pyyaml": "reads recipes",
    "h5py": "lays out files, whose rows it takes as they are",
    "numpy": "sums and sorts",
    "matplotlib": "draws",
    "jinja2": "fills pages in",
    "filelock": "keeps others out",
}
ELSEWHERE = {
    "store.layout": {use.stage for use in uses.USES},
    "data.prepare_regions": {uses.REGIONS.stage},
    "training.run": set(RUN_STAGES.split("|")),
}
"""Modules whose manifests are of a stage that they are told."""
USES = {
    "cache": (
        "cache -r advl.yaml cache.path=cache",
        "distill -r advl.yaml --name v --runs {out} cache.path=cache train.steps=1",
        f"analyze {run_of('advl')} --words --out {{out}}/words.html",
    ),
    "regions": (
        "finetune -r oscar.yaml --name v --runs {out} regions.path={out}/regions train.steps=1",
        "evaluate {out}/oscar/v/seed0 --out {out}/eval",
    ),
    "index": (
        f"evaluate {run_of('dual')} --index index --out {{out}}/eval",
        "index query index red --answer yes",
        f"bench {run_of('dual')} --index index --batch 2 --rounds 1 --rows retrieval --images 4 --texts 4 --dry-run",
    ),
    "prepare": ("prepare jsonl --raw raw/mine --out data/mine --min-count 1",),
    "finetune": ("finetune -r fusion.yaml --name left --resume auto",),
    "distill": (),
    "pretrain": (),
}
"""Of each stage whose values a library decides: the commands that use what it made. A run of one stage goes on as those of the
others do."""


@pytest.fixture
def under():
    """A function: as if these versions of libraries were installed, all others as they are."""
    real = metadata.version
    with pytest.MonkeyPatch.context() as patch:

        def put(**told: str) -> None:
            patch.setattr(metadata, "version", lambda name: told.get(name) or real(name))
            versions.installed.cache_clear()

        yield put
    versions.installed.cache_clear()


@pytest.fixture
def unfinished(workshop, command) -> Iterator[Path]:
    """See `make_unfinished`."""
    yield (run := make_unfinished(command))
    shutil.rmtree(run.parent)


def all_others() -> dict[str, str]:
    return {name: "99.1.0" for name in LIBRARIES}


def test_every_dependency_decides_values_or_has_a_reason_why_not():
    needed = (PACKAGE.parent / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("\n]")[0]
    names = set(re.findall(r'^  "([\w.-]+)', needed, re.MULTILINE))
    assert names == {*LIBRARIES, *HARMLESS} and "tokenizers" in names


def stages_of(path: Path) -> set[str]:
    """The stages of a module's manifests."""
    module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "new_manifest":
            stage = node.args[0]
            if isinstance(stage, ast.Attribute):
                found |= ELSEWHERE[module]
            elif isinstance(stage, ast.Constant):
                found.add(stage.value)
            else:
                found.add(getattr(importlib.import_module(f"vldistill.{module}"), ast.unparse(stage)))
    return found


def test_every_stage_that_writes_a_manifest_is_in_the_table():
    assert set().union(*map(stages_of, PACKAGE.rglob("*.py"))) == set(DECIDING)
    assert {stage for stage, names in DECIDING.items() if names({})} == set(USES)
    assert all(names({}) <= set(LIBRARIES) for names in DECIDING.values())


@pytest.mark.parametrize(
    "there, here, told, small",
    [
        ("2.6.0", "2.6.0", False, True),
        ("2.6.0+cpu", "2.6.0+cu124", False, True),
        ("1.0.14", "1.0.31", True, True),
        ("11.1.0", "11.2.0", True, False),
        ("0.24.0", "1.24.0", True, False),
        ("12.0.0.post1", "12.0.0", True, True),
    ],
)
def test_the_last_part_of_a_version_is_small(there, here, told, small, under):
    under(regex=here)
    made = {"stage": "prepare", "versions": {"regex": there}}
    assert [str(one) for one in differences(made)] == [f"regex {there} (here {here})"] * told
    if small:
        refuse_mixing(made, "x", "y")
    else:
        with pytest.raises(InputError, match=re.escape(f"x: has rows made with regex {there} (here {here}), which new ones")):
            refuse_mixing(made, "x", "y")


@pytest.mark.parametrize("made", [{}, {"versions": 3}, {"versions": {"timm": ["x"]}, LATER: "y"}, {"versions": {}, LATER: [1]}])
def test_what_a_manifest_does_not_know_is_no_difference(made):
    assert [one.library for one in differences({"stage": "cache", **made})] in ([], ["timm"])


def computed(regions: Path) -> None:
    """Makes an import look like what was computed from images, which takes seconds."""
    manifest = json.loads((regions / "manifest.json").read_text())
    manifest["options"] = {"boxes": "grid 2", "weights": "random", "limit": None}
    (regions / "manifest.json").write_text(json.dumps(sealed(manifest)))


def notes_of(result) -> list[str]:
    return [line for line in f"{result.out}\n{result.err}".splitlines() if " (here 99.1.0)" in line]


@pytest.mark.parametrize("stage", [stage for stage, commands in USES.items() if commands])
def test_whoever_uses_it_is_told_in_one_line(stage, workshop, command, well, under, unfinished, tmp_path):
    shutil.copytree("regions", tmp_path / "regions")
    computed(tmp_path / "regions")
    for words in USES[stage]:
        under(**all_others())
        result = command(*words.format(out=tmp_path).split())
        notes = notes_of(result)
        assert result.code == 0 and len(notes) == 1, (words, result.out, result.err)
        assert f"{'regex' if stage == 'prepare' else 'torch'} " in notes[0], notes


def test_one_whose_versions_are_the_same_is_used_without_a_word(workshop, well):
    for words in (USES["cache"][0], USES["index"][1], USES["prepare"][0]):
        result = well(*words.split())
        assert "was made with" not in f"{result.out}{result.err}", words


def test_an_import_of_features_depends_on_no_library(workshop, well, under, tmp_path):
    under(**all_others())
    words = "finetune -r oscar.yaml --name v --runs {out} train.steps=1"
    assert "was made with" not in well(*words.format(out=tmp_path).split()).err


def test_listed_caches_say_it(workshop, well, under):
    under(timm="99.1.0")
    lines = [line for line in well("cache", "--ls", "-r", "advl.yaml", "cache.path=cache").out.splitlines() if "complete" in line]
    assert len(lines) == 3 and sum("made with timm" in line and "(here 99.1.0)" in line for line in lines) == 1


def manifests(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/manifest.json"))]
    return {one["fields"]["feature"]: one for one in found}


BUILD = ("cache", "-r", "advl.yaml")


@pytest.fixture
def half(workshop, well, tmp_path) -> str:
    """A cache of some of the rows that the recipe asks for, as an override."""
    well(*BUILD, f"cache.path={tmp_path}/c", "--limit", "2")
    return f"cache.path={tmp_path}/c"


def test_a_patch_goes_on_with_a_cache_and_is_written_down(half, well, under, tmp_path):
    was = installed("timm")
    under(timm=f"{was}.post1")
    result = well(*BUILD, half)
    assert f"timm {was} (here {was}.post1)" in result.err and result.err.count("was made with") == 1
    made = manifests(tmp_path / "c")
    assert [one["timm"] for one in made["image"][LATER]] == [f"{was}.post1"] and made["image"]["versions"]["timm"] == was
    under(timm="99.1.0")
    assert f"timm {was} and {was}.post1 (here 99.1.0)" in well(*BUILD, half, "--dry-run").err


@pytest.mark.parametrize("library, role", [("pillow", "image"), ("transformers", "text"), ("yake", "words")])
@pytest.mark.parametrize("stage", ["cache", "distill"])
def test_rows_of_another_version_are_not_mixed_in(stage, library, role, half, command, well, under, tmp_path):
    was, before = installed(library), manifests(tmp_path / "c")
    under(**{library: "99.1.0"})
    more = ("--name", "v", "--runs", tmp_path / "runs", "train.steps=1") if stage == "distill" else ()
    words = (stage, "-r", "advl.yaml", half, *more)
    refused = command(*words)
    lines = [line for line in refused.err.splitlines() if line.startswith("vldistill: ")]
    assert refused.code == 2 and len(lines) == 1, refused.err
    assert f"has rows made with {library} {was} (here 99.1.0), which new ones would be mixed with" in lines[0]
    assert "cache.versions=any" in lines[0] and manifests(tmp_path / "c")[role] == before[role]
    well(*words, "cache.versions=any")
    assert [one[library] for one in manifests(tmp_path / "c")[role][LATER]] == ["99.1.0"]


def test_a_cache_that_lacks_nothing_is_used_whatever_is_installed(workshop, well, under, tmp_path):
    under(**all_others())
    well(*BUILD, "cache.path=cache", "cache.mode=require")
    assert all(LATER not in one for one in manifests(Path("cache")).values())


COLUMNS = (Column("pooled", "float16", (2,)),)
FIELDS = {"teacher": "timm", "feature": "image"}


def put(writer: CacheWriter, keys: np.ndarray) -> None:
    writer.put(keys, {"pooled": np.zeros((len(keys), 2), np.float16)})
    writer.commit()


def test_of_two_writers_that_begin_together_the_second_sees_the_first(under, tmp_path):
    keys = np.random.default_rng(0).integers(0, 256, (40, 20), np.uint8)
    first, second = (CacheWriter(tmp_path, "vit", FIELDS, COLUMNS, (part, 2)) for part in (0, 1))
    with first, second:
        # Neither has rows when they ask.
        pending = second.pending(keys)
        put(first, keys[first.pending(keys).indices])
        under(pillow="99.1.0")
        with pytest.raises(InputError, match=r"has rows made with pillow .* \(here 99\.1\.0\)"):
            put(second, keys[pending.indices])


def test_a_store_without_rows_is_begun_under_what_is_installed(under, tmp_path):
    with CacheWriter(tmp_path, "vit", FIELDS, COLUMNS):
        pass
    under(pillow="99.1.0")
    with CacheWriter(tmp_path, "vit", FIELDS, COLUMNS) as writer:
        put(writer, np.ones((1, 20), np.uint8))
    made = json.loads((writer.folder / "manifest.json").read_text())
    assert made["versions"]["pillow"] == "99.1.0" and LATER not in made


def test_a_run_that_went_on_names_both(unfinished, well, under):
    run = unfinished
    was = json.loads((run / "manifest.json").read_text())["versions"]
    under(torch="99.1.0")
    well("finetune", "-r", "fusion.yaml", "--name", "left", "--resume", "auto")
    made = json.loads((run / "manifest.json").read_text())
    assert made["versions"] == was and [one["torch"] for one in made[LATER]] == ["99.1.0"]
    assert f"begun with torch {was['torch']} (here 99.1.0): results may not be those" in (run / "log.txt").read_text()
