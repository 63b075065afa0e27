"""The loop on a one-layer student: optimiser steps under accumulation, schedule, clipping, validation, best, faults."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.data.samplers import EpochBatches
from vldistill.errors import VldistillError
from vldistill.models.base.outputs import NOTHING, Output
from vldistill.objectives.base import HardLabels
from vldistill.runtime import Precision, make_accelerator
from vldistill.training.loop import Learner, PhasePlan, fit
from vldistill.training.optim import linear_schedule
from vldistill.training.run_log import RunLog

FEATURES, CLASSES, COUNT = 6, 3, 48


class Student(nn.Module):
    """A linear classifier of an image's only patch; `faulty_from` makes its output NaN from that forward pass on."""

    def __init__(self, faulty_from: int | None = None):
        super().__init__()
        torch.manual_seed(1)
        self.classifier, self.calls, self.faulty_from = nn.Linear(FEATURES, CLASSES), 0, faulty_from
        self.modes: list[bool] = []

    def forward(self, batch: Batch, capture=NOTHING) -> Output:
        self.calls += 1
        self.modes.append(self.training)
        logits = self.classifier(batch.images[0].patches[:, 0])
        return Output(logits * float("nan") if self.faulty_from and self.calls >= self.faulty_from else logits, [])


class Loader:
    """Batches of made-up records in the order that `EpochBatches` gives; remembers what was asked for."""

    def __init__(self, batches: EpochBatches):
        generator = torch.Generator().manual_seed(0)
        self.values = torch.randn(COUNT, FEATURES, generator=generator)
        self.targets = torch.randint(CLASSES, (COUNT,), generator=generator)
        self.batches, self.asked = batches, []

    def __iter__(self):
        for keys in self.batches:
            self.asked.append(keys)
            rows = [index for _, index in keys]
            ones = torch.ones(len(rows), 1)
            image = ImageBatch(self.values[rows][:, None], ones.bool(), [(1, 1)] * len(rows))
            yield Batch([str(row) for row in rows], TextBatch(ones.long(), ones.bool()), [image], self.targets[rows])


class Recorder(torch.optim.SGD):
    """SGD that remembers the learning rate and the gradient of every true step."""

    def __init__(self, student: nn.Module, lr: float):
        self.rates, self.gradients = [], []
        super().__init__(student.parameters(), lr=lr)

    def step(self, closure=None):
        self.rates.append(self.param_groups[0]["lr"])
        self.gradients.append(torch.cat([p.grad.flatten().clone() for group in self.param_groups for p in group["params"]]))
        return super().step(closure)


class Trained:
    """One training, and all there is to know about it."""

    def __init__(
        self,
        folder,
        *,
        pairs=16,
        accumulate=1,
        steps=6,
        every=3,
        log=1,
        clip=None,
        warmup=0,
        lr=0.5,
        student=None,
        scores=(),
        seed=0,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.student, self.folder, self.saved, self.validated = student or Student(), folder, [], []
        self.batches = EpochBatches(COUNT, pairs, seed=seed)
        self.loader = Loader(self.batches)
        scores = iter(scores)
        self.optimizer = Recorder(self.student, lr)
        accelerator = make_accelerator(Precision("fp32", "test"), accumulate, [], folder)
        schedule = linear_schedule(self.optimizer, warmup, steps)
        learner, optimizer = accelerator.prepare(Learner(self.student, HardLabels("label")), self.optimizer)

        def validate():
            self.validated.append(len(self.optimizer.rates))
            return {"accuracy": next(scores, 0.5), "count": COUNT}

        def save(step):
            self.saved.append((len(self.optimizer.rates), self.student.classifier.weight.detach().clone()))

        self.best = None
        with RunLog(folder, steps, active=True) as journal:
            self.best = fit(
                learner,
                None,
                optimizer,
                schedule,
                self.loader,
                self.batches,
                accelerator,
                PhasePlan(0, steps, accumulate, every, log, clip, seed),
                journal,
                validate=validate,
                save=save,
            )

    def rows(self, split: str) -> list[dict]:
        rows = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if row["split"] == split]


@pytest.mark.parametrize("pairs, accumulate", [(8, 2), (4, 4), (16, 1)])
def test_accumulated_batches_are_one_large_batch(tmp_path, pairs, accumulate):
    whole, parts = Trained(tmp_path / "whole"), Trained(tmp_path / "parts", pairs=pairs, accumulate=accumulate)
    assert len(parts.optimizer.rates) == len(whole.optimizer.rates) == 6
    assert parts.student.calls == 6 * accumulate
    for own, other in zip(parts.optimizer.gradients, whole.optimizer.gradients, strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    assert torch.allclose(parts.student.classifier.weight, whole.student.classifier.weight, atol=1e-6)
    assert [row["loss"] for row in parts.rows("train")] == pytest.approx([row["loss"] for row in whole.rows("train")], abs=1e-6)


def test_the_first_gradient_is_that_of_the_batch(tmp_path):
    run = Trained(tmp_path, pairs=8, accumulate=2, steps=1)
    student, rows = Student(), [index for keys in run.loader.asked[:2] for _, index in keys]
    logits = student.classifier(run.loader.values[rows])
    nn.functional.cross_entropy(logits, run.loader.targets[rows]).backward()
    expected = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert torch.allclose(run.optimizer.gradients[0], expected, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_schedule_counts_optimiser_steps(tmp_path, accumulate):
    run = Trained(tmp_path, pairs=8, accumulate=accumulate, steps=6, warmup=2, lr=0.8)
    assert run.optimizer.rates == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2])
    assert [row["step"] for row in run.rows("train")] == [1, 2, 3, 4, 5, 6]


def test_the_logged_rate_is_the_one_that_the_step_took(tmp_path):
    run = Trained(tmp_path, steps=4, warmup=2, lr=0.8)
    assert [row["lr"] for row in run.rows("train")] == pytest.approx(run.optimizer.rates)


def test_every_epoch_has_its_own_order_and_every_record_once(tmp_path):
    run = Trained(tmp_path, pairs=16, steps=6)
    epochs = [[index for keys in run.loader.asked[part : part + 3] for _, index in keys] for part in (0, 3)]
    assert all(sorted(order) == list(range(COUNT)) for order in epochs) and epochs[0] != epochs[1]
    assert [keys[0][0] for keys in run.loader.asked] == [0, 0, 0, 1, 1, 1]
    assert [row["epoch"] for row in run.rows("train")] == [0, 0, 0, 1, 1, 1]


def test_accumulation_goes_on_over_the_end_of_an_epoch(tmp_path):
    """48 records are 3 batches of 16; two for a step leave one over, which the next epoch completes."""
    run = Trained(tmp_path, pairs=16, accumulate=2, steps=3)
    assert run.student.calls == 6 and len(run.optimizer.rates) == 3


def test_clipping_limits_the_gradient_and_logs_its_norm(tmp_path):
    free, held = Trained(tmp_path / "free", lr=0), Trained(tmp_path / "held", lr=0, clip=0.01)
    norms = [float(gradient.norm()) for gradient in free.optimizer.gradients]
    assert min(norms) > 0.02
    assert [float(gradient.norm()) for gradient in held.optimizer.gradients] == pytest.approx([0.01] * 6, rel=1e-3)
    assert [row["grad_norm"] for row in held.rows("train")] == pytest.approx(norms, rel=1e-4)
    assert "grad_norm" not in free.rows("train")[0]


def test_logged_losses_are_means_since_the_last_line(tmp_path):
    each, some = Trained(tmp_path / "each", steps=7), Trained(tmp_path / "some", steps=7, log=3)
    losses = [row["loss"] for row in each.rows("train")]
    assert [row["step"] for row in some.rows("train")] == [3, 6, 7]
    means = [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, losses[6]]
    assert [row["loss"] for row in some.rows("train")] == pytest.approx(means, rel=1e-5)
    assert [row["loss/task"] for row in some.rows("train")] == pytest.approx(means, rel=1e-5)


def test_the_best_validation_is_saved_and_a_tie_keeps_the_first(tmp_path):
    run = Trained(tmp_path, steps=7, every=2, scores=[0.3, 0.6, 0.6, 0.5])
    assert run.validated == [2, 4, 6, 7]
    assert [step for step, _ in run.saved] == [2, 4] and (run.best.step, run.best.metrics["accuracy"]) == (4, 0.6)
    assert [(row["step"], row["accuracy"]) for row in run.rows("val")] == [(2, 0.3), (4, 0.6), (6, 0.6), (7, 0.5)]


def test_the_student_trains_in_training_mode(tmp_path):
    run = Trained(tmp_path, steps=2, every=1)
    assert run.student.modes == [True, True]


def test_the_teacher_gets_every_batch_and_the_capture(tmp_path):
    seen = []

    def teacher(batch, capture):
        seen.append((batch.ids, capture))

    student, folder = Student(), tmp_path
    batches = EpochBatches(COUNT, 16, seed=0)
    loader, optimizer = Loader(batches), Recorder(student, 0.1)
    accelerator = make_accelerator(Precision("fp32", "test"), 1, [], folder)
    learner, prepared = accelerator.prepare(Learner(student, HardLabels("label")), optimizer)
    with RunLog(folder, 4, active=True) as journal:
        fit(
            learner,
            teacher,
            prepared,
            linear_schedule(optimizer, 0, 4),
            loader,
            batches,
            accelerator,
            PhasePlan(0, 4, 1, 4, 1, None, 0),
            journal,
            validate=lambda: {"accuracy": 0.0},
            save=lambda step: {},
        )
    assert [capture for _, capture in seen] == [NOTHING] * 4
    assert [ids for ids, _ in seen] == [[str(index) for _, index in keys] for keys in loader.asked[:4]]


def test_a_loss_that_is_not_finite_stops_with_a_clear_message(tmp_path):
    told = r"^loss, loss/task is not finite at step 3, in a batch of records .* \(lower optim"
    with pytest.raises(VldistillError, match=told) as caught:
        Trained(tmp_path, student=Student(faulty_from=3))
    assert caught.value.exit_code == 1
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and len(text.splitlines()) == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The fault must be seen before a validation, however rarely the loss is logged."""
    student = Student(faulty_from=2)
    with pytest.raises(VldistillError, match="not finite at step"):
        Trained(tmp_path, student=student, steps=8, every=2, log=8, scores=[0.1, 0.2, 0.3, 0.4])
    assert '"val"' not in (tmp_path / "metrics.jsonl").read_text(), "faulty weights were validated, and would be kept as the best"


def test_the_journal_writes_only_where_it_is_active(tmp_path):
    (tmp_path / "quiet").mkdir()
    with RunLog(tmp_path / "quiet", 3, active=False) as journal:
        journal.say("hello")
        journal.train(1, {"loss": 1.0})
        journal.validation(1, {"accuracy": 1.0}, best=True)
    assert list((tmp_path / "quiet").iterdir()) == []
    told = []
    with RunLog(tmp_path, 3, active=True, tracker=lambda values, step: told.append((step, values))) as journal:
        journal.train(1, {"loss": 1.0, "lr": 0.1})
        journal.validation(2, {"accuracy": 0.5, "count": 4, "by_type": {"a": 1}}, best=False)
    assert told == [(1, {"train/loss": 1.0, "train/lr": 0.1}), (2, {"val/accuracy": 0.5, "val/count": 4})]
    assert "validation: accuracy 0.5000" in (tmp_path / "log.txt").read_text()
