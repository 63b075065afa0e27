"""Model folders: published layouts, broken files, and pickles that must not run."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import shutil

import pytest
import torch
from transformers import ViltConfig, ViltForQuestionAnswering, ViltModel

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import read_checkpoint, resolve_model
from vldistill.models.build import load_student


@pytest.fixture
def pickled(fusion, tmp_path):
    """A folder whose weights are whatever bytes or object a test puts into pytorch_model.bin."""
    folder = tmp_path / "pickled"
    shutil.copytree(fusion.folder, folder)
    (folder / "model.safetensors").unlink()

    def make(content) -> str:
        if isinstance(content, bytes):
            (folder / "pytorch_model.bin").write_bytes(content)
        else:
            torch.save(content, folder / "pytorch_model.bin")
        return str(folder)

    return make


def refusal(source: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_student(source)
    return caught.value


@torch.no_grad()
def test_a_fusion_folder_is_one_of_the_librarys(fusion):
    """The saved names and sizes are the library's: its own class reads the folder and gives the same answers."""
    theirs = ViltForQuestionAnswering.from_pretrained(fusion.folder).eval()
    assert theirs.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    batch = fusion.batch(images=1, rows=1)  # one row of 2 x 2 patches
    pixels = batch.images[0].patches.reshape(2, 2, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, 3, 8, 8)
    logits = theirs(input_ids=batch.text.ids, attention_mask=batch.text.mask.long(), pixel_values=pixels).logits
    torch.testing.assert_close(fusion.model(batch).logits, logits, atol=1e-5, rtol=0)


def test_the_librarys_folder_is_read(fusion, tmp_path):
    config = ViltConfig(**fusion.spec.encoder.to_dict())
    whole = ViltModel(config)
    whole.save_pretrained(tmp_path)
    fusion.tokenizer.save(tmp_path)
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint.spec.kind == "vilt" and checkpoint.spec.encoder == fusion.spec.encoder
    assert set(checkpoint.weights) == set(whole.state_dict())
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in checkpoint.weights.items())


def test_plain_tensors_in_a_pickle_are_read(fusion, pickled):
    loaded, *_ = load_student(pickled(fusion.model.state_dict()))
    assert all(torch.equal(value, fusion.model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_pickle_with_any_other_object_is_refused(fusion, pickled):
    error = refusal(pickled({**fusion.model.state_dict(), "hyper_parameters": argparse.Namespace(lr=1)}))
    assert error.where.endswith("pytorch_model.bin") and error.hint == "use the model's safetensors file"


def test_the_refusal_names_the_object_and_does_not_advise_unsafe_loading(fusion, pickled):
    error = refusal(pickled({**fusion.model.state_dict(), "hyper_parameters": argparse.Namespace(lr=1)}))
    assert "argparse.Namespace" in error.message and "weights_only" not in error.message and "\x1b" not in error.message


@pytest.mark.parametrize("form", ["archive", "plain"])
def test_a_malicious_pickle_is_refused_and_not_run(pickled, tmp_path, form):
    marker = tmp_path / "marker"

    class Malicious:
        def __reduce__(self):
            return exec, (f"import pathlib; pathlib.Path({str(marker)!r}).touch()",)

    pickle.loads(pickle.dumps(Malicious()))  # it does work on an unsafe reader
    assert marker.exists()
    marker.unlink()
    source = pickled({"weight": Malicious()} if form == "archive" else pickle.dumps(Malicious(), protocol=2))
    error = refusal(source)
    assert error.where.endswith("pytorch_model.bin") and error.exit_code == 2
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b""),
        b"hello",
        pytest.param(["a", "list"]),
        {"state_dict": {"vilt.layernorm.weight": torch.zeros(1)}},
        pytest.param({"vilt.layernorm.weight": 3.0}),
    ],
    ids=["empty", "garbage", "list", "nested", "number"],
)
def test_a_broken_pickle_is_one_message(pickled, content):
    error = refusal(pickled(content))
    assert "pickled" in error.where and "\n" not in str(error)


def test_a_truncated_pickle_is_one_message(fusion, pickled):
    buffer = io.BytesIO()
    torch.save(fusion.model.state_dict(), buffer)
    assert refusal(pickled(buffer.getvalue()[:-200])).where.endswith("pytorch_model.bin")


@pytest.mark.parametrize("keep", [0, 7, 300, -10])
def test_a_broken_safetensors_file_is_one_message(fusion, tmp_path, keep):
    shutil.copytree(fusion.folder, tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    error = refusal(str(tmp_path / "broken"))
    assert error.where == str(path) and error.message.startswith("cannot be read: ")


@pytest.mark.parametrize(
    "config, fragment",
    [
        ("{", "is not a model configuration"),
        ("[]", "is not a model configuration"),
        ('{"id2label": {"3": "a"}}', "configuration"),
        ('{"model_type": "bert"}', "is a 'bert' model"),
        ("{}", "is a None model"),
    ],
)
def test_another_configuration_is_refused(fusion, tmp_path, config, fragment):
    shutil.copytree(fusion.folder, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(config)
    error = refusal(str(tmp_path / "other"))
    assert fragment in error.message and error.where.endswith("config.json")


@pytest.mark.parametrize(
    "missing, fragment",
    [
        ("model.safetensors", "holds no model.safetensors"),
        ("tokenizer", "no tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(fusion, tmp_path, missing, fragment):
    shutil.copytree(fusion.folder, tmp_path / "part")
    for path in (tmp_path / "part").iterdir():
        if path.name.startswith(missing) or (missing == "tokenizer" and path.name == "vocab.txt"):
            path.unlink()
    assert fragment in refusal(str(tmp_path / "part")).message


def test_what_a_source_may_name(fusion, tmp_path):
    run = tmp_path / "runs" / "recipe" / "variant" / "seed0"
    shutil.copytree(fusion.folder, run / "model")
    (run / "manifest.json").write_text(json.dumps({"stage": "finetune", "complete": True, "schema": 1}))
    for source in (run / "model", run, run.parent, run.parent.parent):
        assert resolve_model(str(source)) == run / "model"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no complete run"):
        resolve_model(str(tmp_path / "empty"))
    (tmp_path / "empty" / "manifest.json").write_text(json.dumps({"stage": "distill", "complete": True, "schema": 1}))
    with pytest.raises(InputError, match="holds no model"):
        resolve_model(str(tmp_path / "empty"))


@pytest.mark.parametrize("source", ["runs/none", "./a/b", "artifacts/x", "a/b/c", "name"])
def test_a_missing_local_folder_is_never_taken_for_a_published_name(source, monkeypatch):
    def network(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", network)
    with pytest.raises(InputError, match="no such model"):
        resolve_model(source)
