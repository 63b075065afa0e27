"""Masked words and matched pairs: what is hidden, what is swapped, and the losses by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vldistill.data.batch import Batch, Source, TextBatch
from vldistill.models.outputs import Output, View
from vldistill.objectives.masked_language import IGNORED, MaskedLanguageHead, mask_words, masked_language_loss
from vldistill.objectives.pretraining import Pretraining

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


def test_the_loss_is_the_cross_entropy_of_hidden_tokens_alone():
    head = MaskedLanguageHead(8, 3)
    torch.nn.init.zeros_(head.layers[-1].weight)
    head.layers[-1].bias.data = torch.tensor([0.0, math.log(2.0), 0.0])
    targets = torch.tensor([[IGNORED, 1, IGNORED], [0, IGNORED, IGNORED]])
    logits, truth = head(torch.randn(2, 3, 8), targets)
    assert truth.tolist() == [1, 0]
    assert float(masked_language_loss(logits, truth)) == pytest.approx((math.log(2.0) + math.log(4.0)) / 2, rel=1e-6)


# --- the objective --------------------------------------------------------------------------------------------------------


def batch(pairs: int = 4) -> Batch:
    ids = torch.arange(pairs)[:, None] + torch.tensor([[10, 20, 30]])
    words = torch.arange(3)[None].repeat(pairs, 1)
    sources = [Source((f"{row}.jpg",), (((f"text {row}",),),)) for row in range(pairs)]
    return Batch([str(row) for row in range(pairs)], TextBatch(ids, words >= 0, words), [torch.arange(pairs)], None, sources)


def output(arranged, depth: int = 2, width: int = 8) -> Output:
    rows, length = arranged.text.ids.shape
    hidden = {depth: (torch.randn(rows, length, width, requires_grad=True), torch.randn(rows, 2, width, requires_grad=True))}
    seen = torch.ones(rows, 2, dtype=torch.bool)
    return Output(torch.zeros(rows, 0), [View(arranged.text.mask, seen, seen, {}, hidden)])


def objective(*tasks: str) -> Pretraining:
    torch.manual_seed(1)
    return Pretraining(tasks, width=8, depth=2, vocabulary=VOCABULARY, mask_id=MASK, probability=0.3)


def test_the_rows_are_the_pairs_with_hidden_words_and_the_pairs_half_of_them_swapped():
    one, whole = objective("mlm", "itm"), batch(64)
    torch.manual_seed(0)
    arranged = one.arrange(whole)
    shown, own = arranged.images[0], torch.arange(64)
    assert len(arranged) == 128 and (shown[:64] == own).all()
    assert ((shown[64:] == own) == (arranged.matched > 0)).all()
    assert arranged.matched.mean() == pytest.approx(0.5, abs=0.2)
    assert (arranged.text.ids[64:] == whole.text.ids).all() and (arranged.hidden != IGNORED).any(dim=1).all()


def test_a_swapped_image_is_never_one_that_has_the_same_text():
    whole = batch(4)
    whole.sources[1] = Source(("1.jpg",), whole.sources[0].sentences)
    for seed in range(40):
        torch.manual_seed(seed)
        shown = objective("itm").arrange(whole).images[0]
        assert shown[0] != 1 and shown[1] != 0


def test_where_every_image_is_the_same_nothing_is_swapped():
    whole = batch(3)
    whole.sources[:] = [Source(("one.jpg",), source.sentences) for source in whole.sources]
    assert objective("itm").arrange(whole).matched.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("tasks", [("mlm",), ("itm",), ("mlm", "itm")])
def test_each_task_has_a_term_a_gradient_and_sums(tasks):
    one, whole = objective(*tasks), batch(16)
    arranged = one.arrange(whole)
    found = output(arranged)
    terms = one(found, None, arranged)
    assert tuple(terms) == tasks
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in one.parameters())
    sums = one.judge(found, arranged)
    assert set(sums) == set(one.judged)
    metrics = one.summary({name: float(value) for name, value in sums.items()})
    assert metrics["accuracy"] == pytest.approx(sum(metrics[f"accuracy/{task}"] for task in tasks) / len(tasks))


def test_the_summary_by_hand():
    one = objective("mlm", "itm")
    found = one.summary({"mlm/right": 30, "mlm/count": 40, "itm/right": 5, "itm/count": 10})
    assert found == {"accuracy": 0.625, "count": 40, "accuracy/mlm": 0.75, "accuracy/itm": 0.5}


def test_matching_is_learned_from_states_that_tell():
    """Swapped pairs whose image states say so: the head ends up right."""
    one, whole = objective("itm"), batch(32)
    optimizer = torch.optim.Adam(one.parameters(), lr=1e-2)
    for _ in range(60):
        arranged = one.arrange(whole)
        found = output(arranged)
        found.views[0].hidden[2] = (torch.zeros(32, 3, 8), arranged.matched[:, None, None] * torch.ones(32, 2, 8))
        optimizer.zero_grad()
        one(found, None, arranged)["itm"].backward()
        optimizer.step()
    assert one.judge(found, arranged)["itm/right"] == 32
