"""Artifacts: written whole or not at all, never overwritten by accident, and found by name."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from vldistill import artifacts
from vldistill.artifacts import (
    building,
    check_digests,
    check_fields,
    check_files,
    file_digest,
    find_run,
    fingerprint,
    new_manifest,
    read_manifest,
    refuse_existing,
    write_json,
    write_manifest,
    write_text,
)
from vldistill.errors import InputError, Problems, VldistillError


def content(folder) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def make(target, *, text="one", overwrite=False):
    with building(target, overwrite=overwrite) as folder:
        (folder / "data.txt").write_text(text)
        write_manifest(folder, {"stage": "prepare"})


def test_building_renames_into_place(tmp_path):
    target = tmp_path / "a" / "b"
    with building(target) as folder:
        (folder / "data.txt").write_text("one")
        assert not target.exists() and folder.parent == target.parent  # beside it, so that the rename is one step
    assert content(tmp_path) == {"a/b/data.txt": "one"}
    assert [path.name for path in target.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_building_leaves_nothing_behind_on_a_failure(tmp_path, fault):
    with pytest.raises(fault), building(tmp_path / "new") as folder:
        (folder / "half.txt").write_text("half")
        raise fault
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_failed_overwrite_keeps_the_old_artifact(tmp_path, fault):
    make(tmp_path / "old")
    before = content(tmp_path)
    with pytest.raises(fault), building(tmp_path / "old", overwrite=True) as folder:
        (folder / "data.txt").write_text("two")
        assert (tmp_path / "old" / "data.txt").read_text() == "one"
        raise fault
    assert content(tmp_path) == before


def test_an_existing_artifact_is_refused_before_any_work(tmp_path):
    make(tmp_path / "old")
    with pytest.raises(InputError, match="already exists") as caught, building(tmp_path / "old"):
        raise AssertionError("the body ran")
    assert caught.value.where == str(tmp_path / "old") and "--overwrite" in caught.value.hint


def test_overwrite_replaces_an_artifact_whole(tmp_path):
    make(tmp_path / "old")
    (tmp_path / "old" / "stale.txt").write_text("stale")
    make(tmp_path / "old", text="two", overwrite=True)
    assert set(content(tmp_path)) == {"old/data.txt", "old/manifest.json"}
    assert (tmp_path / "old" / "data.txt").read_text() == "two"


def test_overwrite_never_replaces_what_is_not_ours(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    before = content(tmp_path)
    for name in ("thesis", "file"):
        with pytest.raises(InputError, match="not an artifact of vldistill"):
            make(tmp_path / name, overwrite=True)
    assert content(tmp_path) == before
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", overwrite=True)
    assert (tmp_path / "empty" / "data.txt").exists()


def test_overwrite_replaces_its_own_kind_alone(tmp_path):
    for name, text in (("data", '{"stage": "prepare"}'), ("run", '{"stage": "finetune"}'), ("other", "{}"), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    refuse_existing(tmp_path / "data", True, "prepare|regions")
    for name, message in (("run", "is an artifact of `finetune`"), ("other", "not an artifact"), ("broken", "not an artifact")):
        with pytest.raises(InputError, match=message), building(tmp_path / name, overwrite=True, stage="prepare"):
            raise AssertionError("the body ran")


def test_rests_of_a_killed_process_do_not_stand_in_the_way(tmp_path):
    rest = tmp_path / f".new.{os.getpid()}.building"
    rest.mkdir()
    (rest / "half.txt").write_text("half")
    make(tmp_path / "new")
    assert set(content(tmp_path)) == {"new/data.txt", "new/manifest.json"}


def test_files_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old é\n")
    assert path.read_bytes() == "old é\n".encode()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(artifacts.os, "fsync", fail)
    with pytest.raises(VldistillError, match="cannot write 3 bytes: disk full") as caught:
        write_text(path, "new")
    assert caught.value.where == str(path)
    assert content(tmp_path) == {"file.txt": "old é\n"}


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_fingerprints():
    assert fingerprint({"b": 1, "a": [1, 2]}) == fingerprint({"a": [1, 2], "b": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert fingerprint({}) == hashlib.sha256(b"{}").hexdigest()


def test_file_digest(tmp_path):
    data = bytes(range(256)) * 8200  # more than one block of a MiB
    (tmp_path / "f").write_bytes(data)
    assert file_digest(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    assert file_digest(tmp_path / "f", "sha1") == hashlib.sha1(data).hexdigest()


def test_files_that_are_gone(tmp_path):
    manifest = {"files": {"a.h5": "0"}, "sizes": {"a.h5": 2}, "variants": {"train-shift": {}}}
    (tmp_path / "a.h5").write_text("12")
    with pytest.raises(InputError, match=r"train-shift.jsonl: is named in the manifest but missing"):
        check_files(tmp_path, manifest)
    (tmp_path / "train-shift.jsonl").touch()
    check_files(tmp_path, manifest)
    (tmp_path / "a.h5").write_text("123")
    with pytest.raises(InputError, match="has 3 bytes, its manifest says 2"):
        check_files(tmp_path, manifest)


# Manifests.


def test_a_manifest_reads_back(tmp_path):
    manifest = new_manifest("prepare", counts={"train": 3})
    assert manifest["complete"] is False and manifest["schema"] == 1 and manifest["command"][0] == "vldistill"
    assert {"python", "torch", "numpy"} <= set(manifest["versions"])
    write_manifest(tmp_path, {**manifest, "complete": True})
    assert read_manifest(tmp_path, "prepare", make_it="x")["counts"] == {"train": 3}
    assert read_manifest(tmp_path, "cache|prepare", make_it="x")["stage"] == "prepare"


COMMAND = "vldistill prepare toy"


@pytest.mark.parametrize(
    "written, fragment",
    [
        (None, "it has no manifest.json"),
        ("{", "is not a manifest"),
        ("[]", "is not a manifest"),
        ("{}", "is not a manifest"),
        ("\udc80", "is not a manifest"),
        ({"stage": "finetune", "schema": 1, "complete": True}, "is an artifact of `finetune`, one of `prepare` was expected"),
        ({"stage": "prepare", "schema": 2, "complete": True}, "has schema 2, this version reads 1"),
        ({"stage": "prepare", "schema": 1, "complete": False}, "is not complete"),
        ({"stage": "prepare", "schema": 1}, "is not complete"),
    ],
)
def test_a_manifest_that_cannot_be_used_names_the_command(tmp_path, written, fragment):
    if written is not None:
        text = written if isinstance(written, str) else json.dumps(written)
        (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_manifest(tmp_path, "prepare", make_it=COMMAND)
    assert fragment in caught.value.message and caught.value.hint.endswith(COMMAND)
    assert caught.value.where.startswith(str(tmp_path)) and caught.value.exit_code == 2


def test_an_edited_manifest_is_refused_and_one_without_a_checksum_is_believed(tmp_path):
    write_manifest(tmp_path, {"schema": 1, "stage": "prepare", "complete": True, "counts": {"train": 3}, "rate": 0.1})
    found = read_manifest(tmp_path, "prepare", make_it=COMMAND)
    assert "checksum" not in found and found["rate"] == 0.1
    value = json.loads((tmp_path / "manifest.json").read_text())
    write_json(tmp_path / "manifest.json", dict(reversed(value.items())))
    assert read_manifest(tmp_path, "prepare", make_it=COMMAND) == found
    write_json(tmp_path / "manifest.json", {**value, "counts": {"train": 4}})
    with pytest.raises(InputError, match="was edited: it is not what its checksum says"):
        read_manifest(tmp_path, "prepare", make_it=COMMAND)
    write_json(tmp_path / "manifest.json", found)
    assert read_manifest(tmp_path, "prepare", make_it=COMMAND) == found
    with pytest.raises(InputError, match="was edited"):
        read_manifest(tmp_path, "prepare", make_it=COMMAND, unsealed=False)


def test_a_field_of_another_type_names_itself(tmp_path):
    check_fields({"files": {}, "width": 3}, tmp_path, files=dict, width=int)
    for manifest, told in (({"files": []}, r"`files` is '\[\]'"), ({}, "`files` is missing")):
        with pytest.raises(InputError, match=told):
            check_fields(manifest, tmp_path, files=dict)
    with pytest.raises(InputError, match="`width` is 'True'"):
        check_fields({"width": True}, tmp_path, width=int)


@pytest.mark.parametrize("name", ["options", "parents", "references", "files", "sizes", "variants"])
def test_a_table_of_a_manifest_that_is_none_names_itself(tmp_path, name):
    """Such a manifest has been edited, and its checksum made right."""
    for value in (0.5, "x", [1]):
        write_manifest(tmp_path, {"schema": 1, "stage": "prepare", "complete": True, name: value})
        with pytest.raises(InputError, match=f"`{name}` is "):
            read_manifest(tmp_path, "prepare", make_it=COMMAND)
    write_manifest(tmp_path, {"schema": 1, "stage": "prepare", "complete": True, name: None})
    assert read_manifest(tmp_path, "prepare", make_it=COMMAND)[name] is None


def test_files_that_were_edited(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    manifest = {"files": {name: file_digest(tmp_path / name) for name in ("model/a", "b")}}
    check_digests(tmp_path, manifest)
    (tmp_path / "b").write_text("22")
    check_digests(tmp_path, manifest, within="model/")
    with pytest.raises(InputError, match="b: differs from what its manifest records"):
        check_digests(tmp_path, manifest)
    (tmp_path / "model" / "a").unlink()
    with pytest.raises(InputError, match="a: is named in the manifest but missing"):
        check_digests(tmp_path, manifest, within="model/")


def test_a_missing_artifact_names_the_command(tmp_path):
    with pytest.raises(InputError) as caught:
        read_manifest(tmp_path / "none", "prepare", make_it=COMMAND)
    assert str(caught.value) == f"{tmp_path / 'none'}: no such artifact (make it with: {COMMAND})"


# Runs.


def run(folder, complete=True):
    folder.mkdir(parents=True)
    write_manifest(folder, {"schema": 1, "stage": "distill", "complete": complete})
    return folder


def test_a_run_is_found_at_any_depth_up_to_its_recipe(tmp_path):
    seed = run(tmp_path / "runs" / "recipe" / "variant" / "seed0")
    for path in (seed, seed.parent, seed.parent.parent, seed.parent.parent.parent):
        assert find_run(path) == seed
    assert find_run(tmp_path / "missing") == tmp_path / "missing"


def test_several_runs_are_listed(tmp_path):
    runs = [run(tmp_path / "recipe" / "variant" / f"seed{seed}") for seed in range(2)]
    with pytest.raises(InputError, match="holds 2 runs") as caught:
        find_run(tmp_path / "recipe")
    assert all(str(path) in caught.value.hint for path in runs)


def test_no_run_names_the_commands(tmp_path):
    run(tmp_path / ".trash" / "seed0")
    run(tmp_path / "recipe" / ".old" / "seed0")
    with pytest.raises(InputError, match="holds no complete run") as caught:
        find_run(tmp_path)
    assert "vldistill finetune" in caught.value.hint and "distill" in caught.value.hint


def test_an_interrupted_run_does_not_hide_the_complete_one(tmp_path):
    whole = run(tmp_path / "recipe" / "a" / "seed0")
    run(tmp_path / "recipe" / "b" / "seed0", complete=False)
    assert find_run(tmp_path / "recipe") == whole


# The exception family.


def test_errors_say_what_where_and_how_to_mend():
    assert str(InputError("is bad", where="f:3", hint="do x")) == "f:3: is bad (do x)"
    assert str(InputError("is bad")) == "is bad" and str(VldistillError("broke", hint="retry")) == "broke (retry)"
    assert (VldistillError.exit_code, InputError.exit_code) == (1, 2) and issubclass(InputError, VldistillError)


def test_problems_are_raised_together():
    problems = Problems()
    problems.raise_if_any("f")  # nothing to say
    assert not problems
    problems.add("a", where="f:1", hint="h")
    with pytest.raises(InputError) as caught:
        problems.raise_if_any("f")
    assert (caught.value.message, caught.value.where, caught.value.hint) == ("a", "f:1", "h")
    problems.add("b", where="f:2")
    with pytest.raises(InputError) as caught:
        problems.raise_if_any("f")
    assert str(caught.value) == "f:1: a (h)\nf:2: b\n2 problems in f, nothing was written"
