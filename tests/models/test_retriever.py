"""Models that rank: the rank head under the library's name, where it starts, and who cannot rank."""

from __future__ import annotations

import pytest
import torch
from asked import asked
from transformers import ViltForImageAndTextRetrieval

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec, save_model
from vldistill.models.build import init_student, load_retriever
from vldistill.models.vilt.model import Vilt, ViltDual
from vldistill.teachers.fusion import build_fusion_teacher

RANKING = asked("vilt", "caption", 1, [], 8, 10, 0.0, pretraining=("rank",))


def saved(fusion, folder, kind: str = "vilt", heads: tuple[str, ...] = (), images: int = 1):
    """A folder with a model for captions, every weight of it moved."""
    encoder = type(fusion.spec.encoder)(**fusion.spec.encoder.to_dict() | {"modality_type_vocab_size": images + 1})
    spec = ModelSpec(kind, encoder, "caption", images, [], 8, 10, pretraining=heads)
    model = {"vilt": Vilt, "dual_encoder": ViltDual}[kind].from_spec(spec).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=generator)
    save_model(folder, model, spec, fusion.tokenizer)
    return model


@torch.no_grad()
def test_a_ranking_folder_is_one_of_the_librarys(fusion, tmp_path):
    saved(fusion, tmp_path, heads=("rank",))
    model, spec, _ = load_retriever(str(tmp_path))
    assert spec.pretraining == ("rank",)
    batch = fusion.batch(images=1, rows=1)  # one row of 2 x 2 patches
    pixels = batch.images[0].patches.reshape(2, 2, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, 3, 8, 8)
    theirs = ViltForImageAndTextRetrieval.from_pretrained(tmp_path).eval()
    scores = theirs(input_ids=batch.text.ids, attention_mask=batch.text.mask.long(), pixel_values=pixels).logits
    assert scores.abs() > 1e-3
    torch.testing.assert_close(model(batch).logits, scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_librarys_own_ranking_folder_is_read(fusion, tmp_path):
    saved(fusion, tmp_path / "ours", heads=("rank",))
    theirs = ViltForImageAndTextRetrieval.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    fusion.tokenizer.save(tmp_path / "theirs")
    model, _, _ = load_retriever(str(tmp_path / "theirs"))
    batch = fusion.batch(images=1)
    assert torch.equal(model(batch).logits, load_retriever(str(tmp_path / "ours"))[0](batch).logits)
    student, *_ = init_student(str(tmp_path / "theirs"), RANKING, keep_head=False)
    assert torch.equal(student.eval()(batch).logits, model(batch).logits)


def test_the_head_starts_from_what_matching_says_of_a_match(fusion, tmp_path):
    pretrained = saved(fusion, tmp_path, heads=("itm", "mlm"))
    student, spec, _ = init_student(str(tmp_path), RANKING, keep_head=False)
    assert spec.pretraining == ("rank",) and student.itm_score is None and student.mlm_score is None
    for model in (student, load_retriever(str(tmp_path))[0]):
        assert torch.equal(model.rank_output.weight, pretrained.itm_score.fc.weight[1:])
        assert torch.equal(model.rank_output.bias, pretrained.itm_score.fc.bias[1:])


@torch.no_grad()
def test_choices_are_scored_one_by_one(fusion, tmp_path):
    model = saved(fusion, tmp_path, heads=("rank",))
    batch = fusion.batch(images=1)
    alone = model(batch).logits
    assert alone.shape == (3, 1)
    rows = torch.arange(3).repeat_interleave(2)
    doubled = type(batch)(batch.ids, batch.text[rows], batch.images, None)
    torch.testing.assert_close(model(doubled).logits, alone.expand(-1, 2), atol=1e-6, rtol=0)


def test_a_ranking_model_teaches_attention_to_a_student_without_labels(fusion, tmp_path):
    own = saved(fusion, tmp_path, heads=("rank",))
    for source in (tmp_path, fusion.folder):
        teacher = build_fusion_teacher("vilt", str(source), labels=[], images=1)
        assert teacher.model.classifier is None and teacher.model.rank_output is None and teacher.order is None
    taught = build_fusion_teacher("vilt", str(tmp_path), labels=[], images=1).model.vilt.state_dict()
    assert all(torch.equal(taught[name], value) for name, value in own.vilt.state_dict().items())
    student, *_ = init_student(str(tmp_path), asked("dual_encoder", "caption", 1, [], 8, 10, 0.0), keep_head=False)
    assert torch.equal(student.text_encoder.pooler.dense.weight, own.vilt.pooler.dense.weight) and student.classifier is None


@pytest.mark.parametrize(
    "kind, heads, images, expected",
    [("vilt", ("mlm",), 1, "has neither rank_output nor itm_score"), ("dual_encoder", (), 2, "takes 2 images a record")],
)
def test_who_cannot_rank_is_refused(fusion, tmp_path, kind, heads, images, expected):
    saved(fusion, tmp_path, kind, heads, images)
    with pytest.raises(InputError, match=expected):
        load_retriever(str(tmp_path))
