"""Masked words and matched pairs: what is hidden, what is swapped, and the losses by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vldistill.data.batch import IGNORED, Batch, ImageBatch, RecordSource, TextBatch
from vldistill.models.base.heads import MatchingHead
from vldistill.models.base.outputs import Output
from vldistill.models.vilt.model import EncoderConfig, Vilt, ViltDual
from vldistill.objectives.contrastive import CrossModalContrast, pair_keys
from vldistill.objectives.pretraining import Pretraining, mask_words, masked_language_loss

MASK, VOCABULARY = 4, 50
# [CLS] one two two three [SEP], and [CLS] one [SEP] with padding.
WORDS = torch.tensor([[-1, 0, 1, 1, 2, -1], [-1, 0, -1, -1, -1, -1]])
IDS = torch.tensor([[2, 10, 11, 12, 13, 3], [2, 14, 3, 0, 0, 0]])


def text(rows: int = 1) -> TextBatch:
    return TextBatch(IDS.repeat(rows, 1), (IDS != 0).repeat(rows, 1), WORDS.repeat(rows, 1))


def masked(probability: float, rows: int = 1, seed: int = 0):
    torch.manual_seed(seed)
    return mask_words(text(rows), mask_id=MASK, vocabulary=VOCABULARY, probability=probability)


def test_whole_words_are_hidden_and_only_words():
    ids, targets = masked(0.4, rows=500)
    chosen = targets != IGNORED
    assert (targets[chosen] == IDS.repeat(500, 1)[chosen]).all()
    assert not chosen[WORDS.repeat(500, 1) < 0].any()
    assert (chosen[:, 2] == chosen[:, 3])[::2].all()  # the two tokens of one word
    assert (ids[~chosen] == IDS.repeat(500, 1)[~chosen]).all()


def test_every_sequence_with_words_hides_one_at_least():
    _, targets = masked(1e-9, rows=50)
    hidden = (targets != IGNORED).sum(dim=1)
    assert (hidden[1::2] == 1).all() and ((hidden[::2] == 1) | (hidden[::2] == 2)).all()
    assert (masked(0.999, rows=20)[1][:, 1] != IGNORED).all()


def test_a_sequence_without_words_hides_nothing():
    alone = TextBatch(torch.tensor([[2, 3]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[-1, -1]]))
    ids, targets = mask_words(alone, mask_id=MASK, vocabulary=VOCABULARY, probability=0.5)
    assert ids.tolist() == [[2, 3]] and (targets == IGNORED).all()


def test_four_fifths_are_shown_as_mask_and_half_of_the_rest_at_random():
    ids, targets = masked(0.999, rows=4000)
    chosen = targets != IGNORED
    shown = ids[chosen]
    assert (shown == MASK).float().mean() == pytest.approx(0.8 + 0.1 / VOCABULARY, abs=0.01)
    assert (shown == targets[chosen]).float().mean() == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.01)


def test_the_share_of_hidden_words_is_the_probability():
    torch.manual_seed(0)
    words = torch.arange(40)[None].repeat(300, 1)
    _, targets = mask_words(TextBatch(words + 5, words >= 0, words), mask_id=MASK, vocabulary=VOCABULARY, probability=0.15)
    assert (targets != IGNORED).float().mean() == pytest.approx(0.15, abs=0.01)


def test_the_loss_is_the_mean_over_hidden_tokens():
    logits = torch.tensor([[0.0, math.log(2.0), 0.0]] * 2)
    expected = (math.log(2.0) + math.log(4.0)) / 2
    assert float(masked_language_loss(logits, torch.tensor([1, 0]))) == pytest.approx(expected, rel=1e-6)


# --- the objective --------------------------------------------------------------------------------------------------------


def batch(pairs: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(pairs)
    ids = torch.randint(5, VOCABULARY, (pairs, 3), generator=generator)
    words = torch.arange(3)[None].repeat(pairs, 1)
    patches = torch.randn(pairs, 4, 3 * 2 * 2, generator=generator)
    image = ImageBatch(patches, torch.ones(pairs, 4, dtype=torch.bool), [(2, 2)] * pairs)
    sources = [RecordSource((f"{row}.jpg",), (((f"text {row}",),),)) for row in range(pairs)]
    return Batch([str(row) for row in range(pairs)], TextBatch(ids, words >= 0, words), [image], None, sources)


CONFIG = EncoderConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    image_size=4,
    patch_size=2,
    max_position_embeddings=6,
    hidden_dropout_prob=0.0,
)


def model(kind: type, seed: int = 0):
    torch.manual_seed(seed)
    return kind(CONFIG, images=1, classes=0, pretraining=("mlm", "itm")).eval()


def objective(*tasks: str, **fields) -> Pretraining:
    return Pretraining(tasks, depth=2, vocabulary=VOCABULARY, mask_id=MASK, **{"probability": 0.3, **fields})


def test_texts_stand_twice_images_once_and_whole_pairs_once():
    one, whole = objective("cmc", "mlm", "itm"), batch(64)
    torch.manual_seed(0)
    arranged = one.prepare_batch(whole)
    swapped = 64 - int(arranged.matched.sum())
    assert len(arranged.text.ids) == 128 and len(arranged.images[0].mask) == 64 and len(arranged.pairs) == 128 + swapped
    assert 16 < swapped < 48
    own = torch.arange(64)
    for task in ("cmc", "mlm"):
        texts, images = arranged.pairs[arranged.rows[task]].unbind(dim=1)
        assert (images == own).all() and (texts % 64 == own).all()
    assert (arranged.text.ids[arranged.pairs[arranged.rows["cmc"], 0]] == whole.text.ids).all()
    assert (arranged.hidden_words() != IGNORED).any(dim=1).all()
    texts, images = arranged.pairs[arranged.rows["itm"]].unbind(dim=1)
    assert (arranged.text.ids[texts] == whole.text.ids).all() and ((images == own) == arranged.matched).all()
    assert (arranged.rows["itm"][arranged.matched] == arranged.rows["cmc"][arranged.matched]).all()


@pytest.mark.parametrize("tasks, texts, pairs", [(("mlm",), 8, 8), (("itm",), 8, 8), (("cmc",), 8, 8), (("mlm", "itm"), 16, 16)])
def test_no_row_is_read_that_no_task_asks_for(tasks, texts, pairs):
    arranged = objective(*tasks).prepare_batch(batch(8))
    assert (len(arranged.text.ids), len(arranged.pairs)) == (texts, pairs)


def test_a_swapped_image_is_never_one_that_has_the_same_text():
    whole = batch(4)
    whole.sources[1] = RecordSource(("1.jpg",), whole.sources[0].sentences)
    for seed in range(40):
        torch.manual_seed(seed)
        shown = objective("itm").prepare_batch(whole).pairs[:, 1]
        assert shown[0] != 1 and shown[1] != 0


def test_where_every_image_is_the_same_nothing_is_swapped():
    whole = batch(3)
    whole.sources[:] = [RecordSource(("one.jpg",), source.sentences) for source in whole.sources]
    assert objective("itm").prepare_batch(whole).matched.tolist() == [True, True, True]


@pytest.mark.parametrize("kind", [Vilt, ViltDual])
def test_a_model_says_of_each_pair_what_it_says_of_it_alone(kind):
    """Whatever is shared among pairs: the heads' answers and the attention are those of the pair by itself."""
    one, tested = objective("mlm", "itm", attention="cross"), model(kind)
    torch.manual_seed(2)
    arranged = one.prepare_batch(batch(6))
    found = tested(arranged, one.student_capture)
    view, words = found.views[0], iter(found.words.split((arranged.hidden_words() != IGNORED).sum(dim=1).tolist()))
    for row, (text, image) in enumerate(arranged.pairs.tolist()):
        alone = Batch(["x"], arranged.text[torch.tensor([text])], [arranged.images[0][torch.tensor([image])]], None)
        seen = tested(alone, one.student_capture)
        for name in ("text_query", "text_key", "image_query", "image_key"):
            assert torch.allclose(getattr(view.qk[2], name)[row], getattr(seen.views[0].qk[2], name)[0], atol=1e-5)
        if kind is Vilt:
            encoded = tested.vilt.encode_pair(alone.text, alone.images[0])
            states, vector = encoded.hidden[0, :3], tested.vilt.pool(encoded.hidden)
        else:
            states = tested.text_encoder.encode_text(alone.text).hidden[0]
            vector = tested.fusion(torch.cat([tested.encode_text(alone.text), tested.encode_image(alone.images[0])], dim=-1))
        place = (arranged.rows["itm"] == row).nonzero()
        if len(place):
            assert torch.allclose(found.matching[place[0, 0]], tested.itm_score(vector)[0], atol=1e-5)
        else:
            hidden = arranged.hidden[text] != IGNORED
            assert torch.allclose(next(words), tested.mlm_score(states[hidden]), atol=1e-5)


@pytest.mark.parametrize("tasks", [("mlm",), ("itm",), ("mlm", "itm"), ("cmc",), ("cmc", "mlm", "itm")])
def test_each_task_has_a_term_and_sums(tasks):
    one, tested = objective(*tasks), model(ViltDual)
    arranged = one.prepare_batch(batch(16))
    found = tested(arranged)
    terms = one(found, None, arranged)
    assert set(terms) == set(tasks) and not one.needs_teacher
    sums = one.eval_sums(found, arranged)
    assert set(sums) == set(one.judged)
    metrics = one.eval_metrics({name: float(value) for name, value in sums.items()})
    assert metrics["accuracy"] == pytest.approx(sum(metrics[f"accuracy/{task}"] for task in tasks) / len(tasks))


@pytest.mark.parametrize(
    "fields, reaches",
    [
        ({}, True),
        ({"hard_label_weight": 0.0}, False),
        ({"hard_label_weight": 0.0, "soft_labels": True, "attention": "cross"}, True),
    ],
)
def test_every_parameter_has_a_gradient_where_the_objective_says_so(fields, reaches):
    one, student = objective("cmc", "mlm", "itm", **fields), model(ViltDual)
    arranged = one.prepare_batch(batch(16))
    taught = model(Vilt)(arranged, one.teacher_capture)
    sum(one(student(arranged, one.student_capture), taught, arranged).values()).backward()
    reached = all(p.grad is not None for module in (one, student) for p in module.parameters())
    assert reached == reaches == one.uses_all_parameters


def test_distillation_is_the_sum_of_terms_known_from_elsewhere():
    fields = {"attention": "cross", "soft_labels": True, "hard_label_weight": 0.0}
    one, student, teacher = objective("cmc", "mlm", "itm", **fields), model(ViltDual), model(Vilt, seed=1)
    arranged = one.prepare_batch(batch(8))
    with torch.no_grad():
        own, taught = student(arranged, one.student_capture), teacher(arranged, one.teacher_capture)
        terms = one(own, taught, arranged)
    assert set(terms) == {"cmc", "cmc/attention", "mlm/soft_label", "mlm/attention", "itm/soft_label", "itm/attention"}
    for task, name in (("mlm", "words"), ("itm", "matching")):
        mine, theirs = getattr(own, name).log_softmax(dim=-1), getattr(taught, name).log_softmax(dim=-1)
        expected = (theirs.exp() * (theirs - mine)).sum(dim=-1).mean()
        assert float(terms[f"{task}/soft_label"]) == pytest.approx(float(expected), rel=1e-4)
    for task, rows in arranged.rows.items():
        sides = [side.views[0].qk[2] for side in (own, taught)]
        cross = 0.0
        for query, key in (("text_query", "image_key"), ("image_query", "text_key")):
            scores = [getattr(side, query)[rows] @ getattr(side, key)[rows].transpose(-1, -2) * 8**-0.5 for side in sides]
            mine, theirs = (score.log_softmax(dim=-1) for score in scores)
            cross = cross + (theirs.exp() * (theirs - mine)).sum(dim=-1).mean()
        assert float(terms[f"{task}/attention"]) == pytest.approx(float(cross), rel=1e-4)
    assert float(one.logs["negatives"]) == 7 and float(one.logs["temperature"]) == pytest.approx(0.07)


def test_a_teacher_that_is_the_student_has_nothing_to_teach_of_attention():
    one, teacher = objective("mlm", "itm", attention="whole", soft_labels=True, hard_label_weight=0.0), model(Vilt)
    arranged = one.prepare_batch(batch(4))
    with torch.no_grad():
        seen = teacher(arranged, one.teacher_capture)
    assert all(abs(float(term)) < 1e-6 for term in one(seen, seen, arranged).values())


def test_the_summary_by_hand():
    one = objective("mlm", "itm")
    found = one.eval_metrics({"mlm/right": 30, "mlm/count": 40, "itm/right": 5, "itm/count": 10})
    assert found == {"accuracy": 0.625, "count": 40, "accuracy/mlm": 0.75, "accuracy/itm": 0.5}


def test_pairs_that_share_an_image_cannot_be_mistaken_for_each_other():
    text = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    sources = [RecordSource((name,), ((word,),)) for name, word in (("1.jpg", "a"), ("1.jpg", "b"), ("2.jpg", "c"))]
    image = torch.tensor([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0]])  # each of the first two is nearest to the other's text
    assert CrossModalContrast.right(text, image, pair_keys(sources)) == (6, 6)
    apart = [RecordSource((name,), ((word,),)) for name, word in (("1.jpg", "a"), ("3.jpg", "b"), ("2.jpg", "c"))]
    assert CrossModalContrast.right(text, image, pair_keys(apart)) == (2, 6)


def test_matching_is_learned_from_vectors_that_tell():
    """Swapped pairs whose vectors say so: the head ends up right."""
    head = MatchingHead(8)
    one, optimizer = objective("itm"), torch.optim.Adam(head.parameters(), lr=1e-1)
    for _ in range(60):
        arranged = one.prepare_batch(batch(32))
        found = Output(torch.zeros(32, 0), [], matching=head(arranged.matched[:, None] * torch.ones(32, 8)))
        optimizer.zero_grad()
        one(found, None, arranged)["itm"].backward()
        optimizer.step()
    assert one.eval_sums(found, arranged)["itm/right"] == 32
