"""METER's dual encoder: what it takes from the fusion model, what a stream computes alone, what the attention loss reaches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from asked import asked
from official_meter_layout import LAYERS, PATCH, SIDE, OfficialMeter, additive, write_vocabulary

from vldistill.data.batch import Batch, ImageBatch, RecordSource, TextBatch
from vldistill.data.transforms import MEAN, STD
from vldistill.models.base.checkpoint import save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student, load_student
from vldistill.models.meter.model import Meter, MeterDual
from vldistill.models.meter.official import LAYOUT
from vldistill.objectives.dide import DiDE
from vldistill.objectives.pretraining import Pretraining
from vldistill.teachers.fusion import build_fusion_teacher

LABELS = ["contradiction", "neutral", "entailment"]
KEPT = Capture(qk=(1, LAYERS), hidden=(1, LAYERS))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A METER in its official layout, and the folder that it was converted to."""
    folder = tmp_path_factory.mktemp("meter")
    official = OfficialMeter(write_vocabulary(folder / "roberta"), 2, "snli_classifier", 3)
    torch.save({"state_dict": official.weights()}, folder / "meter.ckpt")
    LAYOUT.convert(folder / "meter.ckpt", folder / "roberta", folder / "out")
    return official, folder / "out"


def start(folder, **changed) -> tuple[MeterDual, object, object]:
    fields = {
        "kind": "meter_dual",
        "task": "snli_ve",
        "images": 1,
        "labels": LABELS,
        "image_size": SIDE * PATCH,
        "max_length": 12,
        "dropout": 0.1,
    }
    return init_student(str(folder), asked(**(fields | changed)), keep_head=False)


def batch_of(images: int, rows: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(6)
    mask = torch.arange(8) < torch.tensor([8, 4, 6])[:rows, None]
    ids = torch.randint(4, 30, (rows, 8), generator=generator).masked_fill(~mask, 1)
    words = torch.arange(8).expand(rows, -1).masked_fill(~mask, -1).index_fill(1, torch.tensor([0]), -1)
    whole = torch.ones(rows, SIDE**2, dtype=torch.bool)
    shown = [
        ImageBatch(torch.randn(rows, SIDE**2, 3 * PATCH**2, generator=generator), whole, [(SIDE, SIDE)] * rows)
        for _ in range(images)
    ]
    sources = [RecordSource((f"{row}.png",), (((f"text {row}",),),)) for row in range(rows)]
    return Batch([str(row) for row in range(rows)], TextBatch(ids, mask, words), shown, torch.arange(rows) % 3, sources)


def pixels(image: ImageBatch) -> torch.Tensor:
    """[B, 3, H, W] in [0, 1]."""
    cells = image.patches.unflatten(2, (3, PATCH, PATCH)).unflatten(1, (SIDE, SIDE)).permute(0, 3, 1, 4, 2, 5)
    return cells.flatten(4, 5).flatten(2, 3) * STD + MEAN


@pytest.mark.parametrize("images", [1, 2])
def test_towers_hold_the_fusion_models_weights(source, images):
    student, spec, _ = start(source[1], images=images)
    whole = load_student(str(source[1]))[0].meter.state_dict()
    held = {side: getattr(student, f"{side}_encoder").state_dict() for side in ("text", "image")}
    for side, weights in held.items():
        assert all(torch.equal(value, whole[name]) for name, value in weights.items() if not name.startswith("token_type"))
        assert len(weights["token_type_embeddings.weight"]) == images + 1
        assert not any(part in name for name in weights for part in ("crossattention.output", "crossattention.self.value"))
        other = "image" if side == "text" else "text"
        assert f"cross_modal_{side}_layers.0.crossattention.self.query.weight" in weights
        assert f"cross_modal_{other}_layers.0.crossattention.self.key.weight" in weights
    dropped = {name for name in whole if name not in held["text"].keys() | held["image"].keys()}
    assert dropped and all("crossattention.output" in name or "crossattention.self.value" in name for name in dropped)
    assert spec.kind == "meter_dual" and spec.encoder.modality_type_vocab_size == images + 1


@torch.no_grad()
def test_a_stream_is_meters_without_the_other(source):
    """Against the library's layers: self-attention and feed-forward network, queries after the one, keys of what was before."""
    official, folder = source
    student, *_ = start(folder)
    batch = batch_of(1)
    view = student.eval()(batch, KEPT).views[0]
    masks = {"text": batch.text.mask, "image": torch.ones(3, SIDE**2 + 1, dtype=torch.bool)}
    vectors = {"text": student.encode_text(batch.text), "image": student.encode_image(batch.images[0])}
    embedded = official.embedded(batch.text.ids, batch.text.mask, pixels(batch.images[0]))
    for place, (side, other, states) in enumerate(zip(("text", "image"), ("image", "text"), embedded, strict=True)):
        mask = masks[side]

        def agree(found, expected, mask=mask):
            torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)

        layers, others = (getattr(official, f"cross_modal_{name}_layers") for name in (side, other))
        for number, (layer, beside) in enumerate(zip(layers, others, strict=True), start=1):
            key = beside.crossattention.self.key(states)
            states = layer.attention(states, attention_mask=additive(mask))[0]
            query = layer.crossattention.self.query(states)
            states = layer.feed_forward_chunk(states)
            for part, expected in (("query", query), ("key", key)):
                agree(getattr(view.qk[number], f"{side}_{part}").transpose(1, 2).flatten(2), expected)
            agree(view.hidden[number][place], states)
        first = torch.tanh(getattr(official, f"cross_modal_{side}_pooler").dense(states[:, 0]))
        torch.testing.assert_close(vectors[side], first, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_first_layer_projects_as_the_teachers_does_where_it_reads_what_the_teacher_reads(source):
    """The keys of the first layer read the encoders' states, and its queries those after their own attention: both are the
    teacher's own, since the streams have not met yet."""
    student, *_ = start(source[1])
    teacher, batch = load_student(str(source[1]))[0], batch_of(1)
    own, other = (model.eval()(batch, KEPT).views[0] for model in (student, teacher))
    for part in ("text_query", "text_key", "image_query", "image_key"):
        rows = batch.text.mask if part.startswith("text") else ...
        found, expected = (getattr(view.qk[1], part).transpose(1, 2)[rows] for view in (own, other))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(getattr(own.qk[LAYERS], part), getattr(other.qk[LAYERS], part), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 2])
def test_cached_image_vectors_give_the_forward_logits(source, images):
    student, *_ = start(source[1], images=images)
    student.eval()
    student.image_encoder.token_type_embeddings.weight[images] += torch.linspace(-1, 1, 128)  # as after training
    batch = batch_of(images)
    vectors = [student.encode_image(image, place) for place, image in enumerate(batch.images)]
    logits = student.fuse(student.encode_text(batch.text), vectors)
    assert torch.equal(logits, student(batch).logits)
    other = student.fuse(student.encode_text(batch.text), vectors[::-1] if images == 2 else [vectors[0].flip(0)])
    assert not torch.allclose(other, logits, atol=1e-4)


def projections(student: MeterDual) -> list[str]:
    return [name for name, _ in student.named_parameters() if ".crossattention." in name]


def test_a_teacher_against_itself_has_no_attention_loss(source):
    batch, objective = batch_of(1), DiDE(loss="label", depth=LAYERS, layers="all", soft_labels=False)
    with torch.no_grad():
        output = load_student(str(source[1]))[0](batch, objective.teacher_capture)
    assert float(objective(output, output, batch)["attention"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("layers, images", [("last", 1), ("all", 2)])
def test_the_attention_loss_reaches_the_projections_of_its_layers(source, tmp_path, layers, images):
    official = OfficialMeter(
        write_vocabulary(tmp_path / "roberta"),
        images + 1,
        "nlvr2_classifier" if images == 2 else "snli_classifier",
        2 if images == 2 else 3,
    )
    torch.save({"state_dict": official.weights()}, tmp_path / "meter.ckpt")
    LAYOUT.convert(tmp_path / "meter.ckpt", tmp_path / "roberta", tmp_path / "out")
    labels = ["False", "True"] if images == 2 else LABELS
    student, *_ = start(source[1], images=images, labels=labels)
    teacher = build_fusion_teacher("meter", str(tmp_path / "out"), labels=labels, images=images)
    objective, batch = DiDE(loss="label", depth=LAYERS, layers=layers), batch_of(images)
    terms = objective(student(batch, objective.student_capture), teacher(batch, objective.teacher_capture), batch)
    assert terms["attention"].item() > 1e-4
    terms["attention"].backward()
    reached = {name for name, value in student.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}
    # A key's bias shifts all scores of a query alike, so it has no gradient but rounding.
    asked = {
        name for name in projections(student) if name.endswith("weight") and (layers == "all" or f"_layers.{LAYERS - 1}." in name)
    }
    assert asked and asked <= reached
    if layers == "last":
        assert not {name for name in projections(student) if "_layers.0." in name} & reached
    assert not student.uses_all_parameters


@torch.no_grad()
def test_projections_cost_nothing_where_nobody_asks(source):
    student, *_ = start(source[1])
    calls = []
    for name in projections(student):
        module = student.get_submodule(name.rpartition(".")[0])
        module.register_forward_hook(lambda *_: calls.append(1))
    student.eval()(batch_of(1))
    assert not calls
    student(batch_of(1), Capture(qk=(LAYERS,)))
    assert len(calls) == 2 * 4  # a hook for each weight and bias of the four projections of a layer


def test_it_is_saved_and_continued_with_pairs(source, tmp_path):
    student, spec, tokenizer = start(source[1])
    save_model(tmp_path / "out", student.eval(), spec, tokenizer)
    loaded, read, _ = load_student(str(tmp_path / "out"))
    assert read == spec and all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())
    pairs, grown, _ = start(tmp_path / "out", images=2, labels=["False", "True"], image_size=2 * PATCH)
    types = pairs.image_encoder.token_type_embeddings.weight
    assert len(types) == 3 and torch.equal(types[2], types[1]) and grown.encoder.image_size == 2 * PATCH
    assert torch.equal(pairs.fusion[0].weight, student.fusion[0].weight)
    assert len(pairs.image_encoder.vit_model.visual.positional_embedding) == 5


@pytest.mark.parametrize("kind", [Meter, MeterDual])
def test_it_is_pre_trained_with_every_task_that_its_kind_has(source, kind):
    spec = load_student(str(source[1]))[1]
    tasks = ("mlm", "itm") if kind is Meter else ("cmc", "mlm", "itm")
    model = kind.from_spec(replace(spec, labels=[], pretraining=("mlm", "itm")))
    objective = Pretraining(tasks, depth=LAYERS, vocabulary=spec.encoder.vocab_size, mask_id=37, probability=0.5)
    arranged = objective.prepare_batch(replace(batch_of(1), target=None))
    terms = objective(model(arranged, objective.student_capture), None, arranged)
    assert set(terms) == set(tasks)
    sum(terms.values()).backward()
    assert model.mlm_score.decoder.weight.grad.abs().sum() > 0 and model.itm_score.fc.weight.grad.abs().sum() > 0
