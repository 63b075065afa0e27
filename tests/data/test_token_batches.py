"""Batches by tokens: what they cost, what they hold, and how they are dealt to ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vldistill.data import samplers
from vldistill.data.samplers import EpochBatches, TokenBatches
from vldistill.training.inputs import StepPairs, step_pairs


def drawn(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(20, 140, count).tolist()


def cost(batch: list[int], lengths: list[int]) -> int:
    return max(lengths[index] for index in batch) * len(batch)


def deal(lengths, tokens, *, epoch=0, **place) -> list[list[int]]:
    batches = TokenBatches(lengths, tokens, **{"seed": 0, **place})
    batches.epoch = epoch
    dealt = list(batches)
    assert len(dealt) == len(batches) and {key[0] for keys in dealt for key in keys} == {epoch}
    return [[index for _, index in keys] for keys in dealt]


def test_a_small_set_by_hand():
    """10 tokens hold one record of 6 (two are 12), or three with one of 3 among them."""
    lengths = [1, 6, 3, 3, 1, 3, 3]
    dealt = deal(lengths, 10)
    assert sorted(sorted(lengths[index] for index in batch) for batch in dealt) == [[1, 1, 3], [3, 3, 3], [6]]
    assert sorted(index for batch in dealt for index in batch) == list(range(7))


@pytest.mark.parametrize("bucket", [samplers.BUCKET, 100])
@pytest.mark.parametrize("tokens", [140, 500, 4000])
def test_every_record_once_and_no_batch_too_large(monkeypatch, bucket, tokens):
    monkeypatch.setattr(samplers, "BUCKET", bucket)
    lengths = drawn(1000)
    dealt = deal(lengths, tokens)
    assert sorted(index for batch in dealt for index in batch) == list(range(1000))
    assert all(0 < cost(batch, lengths) <= tokens for batch in dealt)


def test_large_batches_are_multiples_of_eight():
    lengths = drawn(1000)
    odd = [len(batch) for batch in deal(lengths, 2000) if len(batch) % 8]
    assert len(odd) <= 1  # what is left of the bucket
    # Of 25 tokens, 100 hold 4; of 5 they hold 20, which is cut to 16; 8 are 8.
    assert {len(batch) for batch in deal([25] * 8, 100)} == {4}
    assert {len(batch) for batch in deal([5] * 32, 100)} == {16}
    assert {len(batch) for batch in deal([12] * 16, 100)} == {8}


def test_records_of_like_length_are_together():
    lengths = drawn(4000)
    padded = sum(cost(batch, lengths) for batch in deal(lengths, 4000))
    assert padded < 1.05 * sum(lengths)
    mixed = [[index for _, index in keys] for keys in EpochBatches(4000, 32, seed=0)]
    assert sum(cost(batch, lengths) for batch in mixed) > 1.5 * sum(lengths)
    # But not in the order of their length.
    longest = [max(lengths[index] for index in batch) for batch in deal(lengths, 4000)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_have_equally_many_and_nothing_twice(world):
    lengths = drawn(500)
    whole = [tuple(batch) for batch in deal(lengths, 1000, epoch=2)]
    ranks = [[tuple(batch) for batch in deal(lengths, 1000, epoch=2, rank=rank, world=world)] for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(whole) // world}
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert dealt == whole[: len(dealt)]


def test_fewer_batches_than_ranks_are_dealt_twice():
    ranks = [deal([5, 5, 5], 10, rank=rank, world=4) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [1] * 4
    assert {index for rank in ranks for batch in rank for index in batch} == {0, 1, 2}


def test_each_epoch_and_seed_has_an_order_of_its_own():
    lengths, before = drawn(200), torch.get_rng_state()
    assert deal(lengths, 500, epoch=1) == deal(lengths, 500, epoch=1)
    assert len({str(deal(lengths, 500, epoch=epoch, seed=seed)) for epoch in range(3) for seed in range(3)}) == 9
    assert torch.equal(before, torch.get_rng_state())


def test_a_record_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="a record has 11 tokens, a batch 10"):
        TokenBatches([3, 11], 10, seed=0)


def test_pairs_of_a_step_by_hand():
    class Dealt(TokenBatches):
        def __init__(self, sizes, world):
            self.world, self.sizes = world, sizes

        def dealt(self):
            return [[0] * size for size in self.sizes]

    assert step_pairs(EpochBatches(100, 8, seed=0, world=2), 3) == StepPairs(48, 48, 48)
    assert step_pairs(EpochBatches(10, 8, seed=0, world=2), 3) == StepPairs(30, 30, 30)
    assert step_pairs(Dealt([8, 16, 4, 8, 2], 1), 2) == StepPairs(18, 12, 24)
    assert step_pairs(Dealt([8, 16, 4, 8], 2), 2) == StepPairs(36, 36, 36)
    assert step_pairs(Dealt([8, 16], 2), 4) == StepPairs(96, 96, 96)  # several epochs make a step
    assert str(StepPairs(18, 12, 24)) == "18.0 (12 to 24)" and str(StepPairs(36, 36, 36)) == "36"
