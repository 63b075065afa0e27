"""What a run's curve shows: means of loss terms and readings between two logged steps, and batches whose loss is not finite."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from vldistill.errors import VldistillError
from vldistill.objectives.base import Terms
from vldistill.runtime import reduced

MOST_SKIPPED = 25
"""Batches in a row with a loss that is not finite, after which a run in fp16 stops."""
_MOST_IDS = 8


class Meter:
    """Means since the last reading over all ranks, kept on the device so that no step waits for one.

    tolerant: in fp16, where the scaler skips a step whose gradients overflow: such batches count for nothing and are told; in
    other precisions the first one ends the run.
    """

    def __init__(self, accelerator: Accelerator, accumulate: int, *, tolerant: bool) -> None:
        self._accelerator, self._together, self._tolerant = accelerator, accumulate * accelerator.num_processes, tolerant
        self.start, self.pairs = time.perf_counter(), 0
        self.norm: float | Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._count: Tensor | float = 0.0
        self._recent: list[tuple[list[str], Tensor]] = []
        self._in_a_row = 0

    def add(self, terms: Terms, loss: Tensor, readings: dict[str, Tensor], ids: list[str]) -> None:
        """ids: of this process's batch."""
        given = {
            "loss": loss,
            **{f"loss/{name}": value for name, value in terms.items()},
            **readings,
            "pairs": torch.full((), float(len(ids)), device=loss.device),
        }
        finite = torch.isfinite(loss.detach())
        self._recent.append((ids, finite))
        counts = finite | (not self._tolerant)
        for name, value in given.items():
            value = torch.where(counts, value.detach().float(), 0.0)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count = self._count + counts.float()
        self.pairs += len(ids) * self._accelerator.num_processes

    def check(self, step: int) -> dict[str, float]:
        """The means so far. Raises VldistillError, on every rank, where one is not finite, naming the batch's records; not in
        fp16."""
        if not self._sums:
            return {}
        totals = torch.stack([*self._sums.values(), torch.as_tensor(self._count)])
        totals = reduced(self._accelerator, totals, "sum")
        *sums, count = totals.tolist()
        values = {name: value / count if count else math.nan for name, value in zip(self._sums, sums, strict=True)}
        faulty = [name for name, value in values.items() if not math.isfinite(value)]
        if faulty and not self._tolerant:
            raise VldistillError(
                f"{', '.join(faulty)} is not finite at step {step}{self._records()}",
                hint="lower optim.lr, set optim.clip, or use train.precision=bf16",
            )
        return values

    def _records(self) -> str:
        """The records of this rank's first batch that was not finite."""
        if not self._recent:
            return ""
        flags = torch.stack([finite for _, finite in self._recent]).tolist()
        first = next((ids for (ids, _), finite in zip(self._recent, flags, strict=True) if not finite), None)
        if first is None:
            return ""
        more = f" and {len(first) - _MOST_IDS} more" if len(first) > _MOST_IDS else ""
        return f", in a batch of records {', '.join(first[:_MOST_IDS])}{more}"

    def skipped(self, step: int) -> int:
        """Batches of this rank since the last reading whose loss was not finite. Raises VldistillError after MOST_SKIPPED in a
        row."""
        flags = torch.stack([finite for _, finite in self._recent]).tolist() if self._recent else []
        for finite in flags:
            self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= MOST_SKIPPED:
            raise VldistillError(
                f"the loss was not finite in {self._in_a_row} batches in a row, at step {step}{self._records()}",
                hint="lower optim.lr, set optim.clip, or use train.precision=bf16",
            )
        return len(flags) - sum(flags)

    def read(self, step: int) -> dict[str, float]:
        """The means, and a fresh start."""
        values = self.check(step)
        if self._tolerant and (skipped := self.skipped(step)):
            values["skipped"] = skipped
            values = {name: value for name, value in values.items() if math.isfinite(value)}
        if "pairs" in values:
            values["pairs"] = round(values["pairs"] * self._together, 1)  # of an optimiser step
        if self.norm is not None and math.isfinite(norm := float(self.norm)):
            values["grad_norm"] = norm
        now = time.perf_counter()
        values["pairs_per_s"] = round(self.pairs / max(now - self.start, 1e-9), 1)
        self.start, self.pairs, self._count = now, 0, 0.0
        self._sums.clear()
        self._recent.clear()
        return values

    def pause(self) -> None:
        """Time until now is not the training's."""
        self.start, self.pairs = time.perf_counter(), 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain values, and [ranks, N] tensors, of what has been added since the last reading."""
        names = list(self._sums)
        plain = {"names": names, "in_a_row": self._in_a_row}
        if not names:
            return plain, {}
        own = torch.stack([*self._sums.values(), torch.as_tensor(self._count, device=self._accelerator.device)])
        return plain, {"sums": cast(Tensor, self._accelerator.gather(own[None]))}

    def load(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The reverse of `state`."""
        self._in_a_row = plain["in_a_row"]
        if plain["names"]:
            *sums, self._count = tensors["sums"][self._accelerator.process_index].to(self._accelerator.device).unbind()
            self._sums = dict(zip(plain["names"], sums, strict=True))
