"""Going on with a run from its last checkpoint, as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import nn
from torch.optim import Optimizer

from vldistill.errors import InputError
from vldistill.recipe.load import recipe_fields
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.best import restored, tidy
from vldistill.training.checkpoint import State, best_steps, load_optimizer, optimizer_state, save_state
from vldistill.training.loop import Best, Loop, Position
from vldistill.training.preemption import PreemptionGuard, threads
from vldistill.training.run_log import RunLog
from vldistill.training.sharding import gathered

FREE = (
    "name",
    "description",
    "data.workers",
    "data.memory",
    "train.checkpoint_minutes",
    "train.checkpoint_every",
    "train.gradient_checkpointing",
    "train.fsdp",
    "train.trackers",
    "train.log_every",
    "cache.versions",
)
"""Recipe fields that do not change what a run learns, and so may differ when it goes on."""


@dataclass(frozen=True)
class Change:
    """A field that differs from what the run began with."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.was!r}, is {self.now!r}"


def changes(before: Recipe, now: Recipe) -> list[Change]:
    """The fields in which two recipes differ, but for those that may."""
    old, new = dict(recipe_fields(before)), dict(recipe_fields(now))
    return [
        Change(name, old.get(name), new.get(name))
        for name in dict.fromkeys((*old, *new))
        if name not in FREE and old.get(name) != new.get(name)
    ]


def check_same(folder: Path, before: Recipe, now: Recipe, parents: tuple[dict[str, str], dict[str, str]] = ({}, {})) -> None:
    """Raises InputError where the run's recipe differs, or what it was made from: was and is, of the manifest's `parents`."""
    differing = [str(change) for change in changes(before, now)]
    was, current = parents
    # A run of an earlier version did not write down all of them.
    differing += [f"{name} has changed since" for name, print_ in was.items() if print_ != current.get(name)]
    if differing:
        raise InputError(
            f"was begun otherwise: {'; '.join(differing)}",
            where=str(folder),
            hint="give it the same recipe, start anew with --overwrite, or give another --name",
        )


def bare(optimizer: Optimizer) -> Optimizer:
    """The optimiser itself, without accelerate's wrapper."""
    return cast(Any, optimizer).optimizer


class Checkpoints:
    """What keeps a phase's checkpoints; see `Keeper`. phase: its number. start: what the run goes on from, if it is this phase's.
    shared: modules whose weights outlive a phase. cost: what the run has taken so far."""

    def __init__(
        self,
        folder: Path,
        guard: PreemptionGuard,
        run_log: RunLog,
        phase: int,
        start: State | None,
        shared: dict[str, nn.Module],
        cost: Callable[[], dict[str, Any]],
    ):
        self._folder, self._guard, self._journal, self._phase, self._start = folder, guard, run_log, phase, start
        self._shared, self._cost = shared, cost
        self.watch, self.leaving = guard.watch, guard.leaving

    def restore(self, loop: Loop) -> Position | None:
        state = self._start
        if state is None:
            return None
        load_optimizer(bare(loop.optimizer), state.values["optimizer"], state.part("optimizer"))
        loop.schedule.load_state_dict(state.values["schedule"])
        if loop.accelerator.scaler is not None and "scaler" in state.values:
            loop.accelerator.scaler.load_state_dict(state.values["scaler"])
        loop.metrics.load(state.values["meter"], state.part("meter"))
        loop.best = Best(**restored(self._folder, state.values["best"], state.step))
        return Position(state.step, state.micro, state.epoch, state.batch, state.validates)

    def after_step(self, loop: Loop, position: Position) -> None:
        save, leave = self._guard.ask(position.step)
        if not save:
            return
        self._save(loop, position)
        loop.accelerator.wait_for_everyone()
        self._guard.saved()
        if leave:
            raise self._guard.leave(position.step, str(self._folder))

    def before_validation(self, loop: Loop, position: Position) -> NoReturn:
        self._save(loop, position)
        loop.accelerator.wait_for_everyone()
        raise self._guard.leave(position.step, str(self._folder), validated=False)

    def _save(self, loop: Loop, position: Position) -> None:
        """All ranks give what they hold, and the first one writes."""
        meter, sums = loop.metrics.state()
        plain, tensors = optimizer_state(bare(loop.optimizer))
        held = {f"optimizer.{name}": value for name, value in tensors.items()}
        held |= {f"meter.{name}": value for name, value in sums.items()}
        for name, module in self._shared.items():
            held |= {f"{name}.{own}": value for own, value in module.state_dict().items()}
        held = gathered(held, loop.accelerator)
        if not loop.accelerator.is_main_process:
            return
        values = {
            "optimizer": plain,
            "schedule": loop.schedule.state_dict(),
            "best": asdict(loop.best),
            "meter": meter,
            "curve": self._journal.size(),
            "curve_sha256": self._journal.digest(),
            "cost": self._cost(),
        }
        if loop.accelerator.scaler is not None:
            values["scaler"] = loop.accelerator.scaler.state_dict()
        state = State(self._phase, **asdict(position), values=values, tensors=held, run=this_run(loop.accelerator.num_processes))
        save_state(self._folder, state)
        tidy(self._folder, best_steps(self._folder))
        self._journal.say(f"step {position.step}: checkpoint saved")


def this_run(processes: int) -> dict[str, int]:
    """What a run needs to be the same to go on bit by bit."""
    return {"processes": processes, "threads": threads()}


def check_run(state: State, processes: int, where: Path) -> str | None:
    """A warning where sums will round otherwise. Raises InputError where another number of processes makes other batches."""
    was = state.run["processes"]
    if was != processes:
        raise InputError(
            f"was begun with {was} process(es), this is {processes}",
            where=str(where),
            hint="start as many, or start anew with --overwrite",
        )
    if (before := state.run["threads"]) != threads():
        return f"computed with {before} thread(s) before, now with {threads()}: sums may round otherwise"
    return None


@torch.no_grad()
def put_back(state: State, shared: dict[str, nn.Module]) -> None:
    """Loads the weights of student and objectives in place."""
    for name, module in shared.items():
        module.load_state_dict(state.part(name))


def phases_after(state: State | None, phases: Sequence[Any]) -> list[tuple[int, Any]]:
    """The phases that are left, with their numbers."""
    first = state.phase if state is not None else 0
    return [(number, phase) for number, phase in enumerate(phases) if number >= first]
