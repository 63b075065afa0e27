"""Retrieval's objectives: contrast with and without attention, and ranking texts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vldistill.data.batch import Batch, RecordSource, TextBatch
from vldistill.models.base.outputs import NOTHING, Output, PairStates, QueryKey, Vectors
from vldistill.objectives.attention import cross_modal_attention_loss
from vldistill.objectives.retrieval import DualRetrieval, TextRanking

B, T, V, H, D, DEPTH = 3, 4, 5, 2, 3, 2
TEXT, IMAGE = torch.ones(B, T, dtype=torch.bool), torch.ones(B, V, dtype=torch.bool)


def output(seed: int) -> Output:
    draw = torch.Generator().manual_seed(seed)
    qk = {DEPTH: QueryKey(*(torch.randn(B, H, length, D, generator=draw) for length in (T, T, V, V)))}
    vectors = Vectors(torch.randn(B, 6, generator=draw), [torch.randn(B, 6, generator=draw)])
    return Output(torch.zeros(B, 0), [PairStates(TEXT, IMAGE, IMAGE, qk)], vectors=vectors)


def batch() -> Batch:
    sources = [RecordSource((f"{row}.jpg",), ((("text", str(row)),),)) for row in range(B)]
    return Batch(list("abc"), TextBatch(torch.zeros(B, T, dtype=torch.long), TEXT), [], None, sources)


def test_contrast_alone_is_two_cross_entropies_and_asks_for_nothing():
    one, student = DualRetrieval(depth=DEPTH, temperature=0.5), output(0)
    text, image = (F.normalize(side, dim=1) for side in (student.vectors.text, student.vectors.images[0]))
    scores, own = text @ image.T / 0.5, torch.arange(B)
    terms = one(student, None, batch())
    assert set(terms) == {"cmc"} and not one.needs_teacher and one.student_capture == NOTHING
    assert terms["cmc"].item() == pytest.approx((F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)).item(), rel=1e-5)
    assert one.logs["negatives"] == 2 and one.logs["temperature"].item() == pytest.approx(0.5)


def test_attention_is_matched_on_the_pairs_with_its_weight():
    one = DualRetrieval(depth=DEPTH, attention="cross", attention_weight=3.0)
    student, teacher = output(0), output(1)
    terms = one(student, teacher, batch())
    expected = cross_modal_attention_loss(student.views[0].qk[DEPTH], teacher.views[0].qk[DEPTH], TEXT, IMAGE, kl="forward")
    assert terms["attention"].item() == pytest.approx(3 * expected.item(), rel=1e-5)
    assert one.needs_teacher and one.student_capture.qk == one.teacher_capture.qk == (DEPTH,)


def test_ranking_is_a_cross_entropy_whose_ties_are_errors():
    scores = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [5.0, 4.0, 4.5]])
    ranked = Batch(list("abcd"), batch().text, [], torch.zeros(4, dtype=torch.long))
    one = TextRanking()
    assert one(Output(scores, []), None, ranked)["rank"].item() == pytest.approx(-scores.log_softmax(1)[:, 0].mean().item())
    sums = {name: float(value) for name, value in one.eval_sums(Output(scores, []), ranked).items()}
    assert set(sums) == set(one.judged) and one.eval_metrics(sums) == {"accuracy": 0.5, "count": 4}
