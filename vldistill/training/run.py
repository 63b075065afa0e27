"""A training stage, run: from its parts to a run on disk, from the start or from its last checkpoint."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator

from vldistill import terminal
from vldistill.artifacts import (
    RUN_STAGES,
    file_digest,
    new_manifest,
    read_manifest,
    refuse_existing,
    remove_leftovers,
    within_parents,
    write_manifest,
    write_text,
)
from vldistill.data.artifact import open_data
from vldistill.data.regions.store import RegionStore, same_regions
from vldistill.devices import check_card, unused_gpu
from vldistill.errors import NO_ROOM, InputError, VldistillError, needed
from vldistill.joining import Together, join
from vldistill.locking import exclusive
from vldistill.models.base.checkpoint import resolve_model
from vldistill.models.base.weights import digest_of_weights
from vldistill.objectives.advl import Advl
from vldistill.places import check_writable, refuse_links
from vldistill.recipe.load import dump_recipe, load_recipe, recipe_hash
from vldistill.recipe.schema.recipe import Recipe
from vldistill.runtime import (
    Precision,
    Threads,
    choose_precision,
    device_name,
    is_first_rank,
    join_step,
    make_accelerator,
    refuse_unlaunched,
    seed_everything,
    use_threads,
)
from vldistill.training.anchor import fit_anchors
from vldistill.training.best import MODEL, check_best, publish, remove_best
from vldistill.training.build import build_parts
from vldistill.training.caches import Say
from vldistill.training.checkpoint import State, load_state, newest, remove_states
from vldistill.training.cost import CostMeter, add_costs
from vldistill.training.inputs import eval_pairs
from vldistill.training.loop import Best
from vldistill.training.methods.base import method_of
from vldistill.training.parts import Parts
from vldistill.training.phase import run_phase
from vldistill.training.preemption import Preempted, PreemptionGuard, SignalFlag
from vldistill.training.references import pinned, resolved
from vldistill.training.resume import Checkpoints, check_run, check_same, phases_after, put_back
from vldistill.training.run_log import CURVE, RunLog, kept_curve
from vldistill.training.sharding import shard
from vldistill.training.stages import Phase, Stage, describe, make_phases
from vldistill.versions import differences, gone_on, shown


@dataclass
class _Session:
    """What a process trains with, from the recipe to where it goes on. cost: of the run until now. state: None at the start.
    curve: sha256 of metrics.jsonl, in the end."""

    stage: Stage
    parts: Parts
    accelerator: Accelerator
    precision: Precision
    threads: Threads
    flag: SignalFlag
    state: State | None
    cost: Callable[[], dict[str, Any]]
    curve: str = ""

    @property
    def recipe(self) -> Recipe:
        return self.stage.recipe


def run_stage(stage: Stage, say: Say = terminal.say) -> dict[str, Any]:
    """Trains and writes the run; returns its manifest. say: told what happens before there is a log. Where `stage.resume` is on,
    a run that is complete stays as it is.

    Raises InputError before anything is written where an input is bad, and Preempted where the process was told to leave and has
    saved a checkpoint.
    """
    folder = stage.folder
    join_step()
    refuse_unlaunched()
    if (whole := _whole(stage, say)) is not None:
        return whole
    check_writable(folder)
    with SignalFlag() as flag:
        flag.listen()
        together = join(say)
        with together.fate(), _ours(folder):
            together.meet("the run's folder is held")
            # Another process may have finished it since.
            if (whole := _whole(stage, say)) is not None:
                return whole
            earlier = _earlier(stage)
            if earlier is None and is_first_rank():
                refuse_existing(
                    folder,
                    stage.overwrite or stage.resume,
                    RUN_STAGES,
                    "pass --overwrite, --resume auto to go on with it, or another --name",
                )
            return _run(stage, earlier, flag, say, together)


def _whole(stage: Stage, say: Say) -> dict[str, Any] | None:
    """The manifest of a run that nothing is left to do for. Raises InputError where its recipe was another one."""
    earlier = _earlier(stage)
    if earlier is None or not earlier.get("complete"):
        return None
    check_same(stage.folder, load_recipe(str(stage.folder / "recipe.yaml")), stage.recipe)
    say(f"{stage.folder} is complete")
    if is_first_rank():
        remove_states(stage.folder)  # where it was killed just before that
        remove_best(stage.folder)
    return earlier


@contextmanager
def _ours(folder: Path) -> Iterator[None]:
    """The run's folder, held against other processes by the first rank. Raises InputError where one of them trains there."""
    if not is_first_rank():
        yield
        return
    with within_parents(folder), exclusive(folder):
        remove_leftovers(folder)
        refuse_links(folder, "model", "best", "checkpoints", "metrics.jsonl", "log.txt")
        for half in folder.glob("**/.*.tmp"):  # of a killed process
            shutil.rmtree(half) if half.is_dir() else half.unlink()
        yield


def _earlier(stage: Stage) -> dict[str, Any] | None:
    """The manifest of the run to go on with. Raises InputError where the folder is another stage's."""
    if not stage.resume or not stage.folder.exists() or all(path.name.startswith(".") for path in stage.folder.iterdir()):
        return None  # or killed before it had a manifest
    return read_manifest(stage.folder, stage.name, make_it=f"vldistill {stage.name}, with --overwrite", partial=True)


def _run(stage: Stage, earlier: dict[str, Any] | None, flag: SignalFlag, say: Say, together: Together) -> dict[str, Any]:
    recipe, folder, state = stage.recipe, stage.folder, None
    references = (earlier or {}).get("references")
    # As when the run began: a name may lead elsewhere by now.
    meant = pinned(recipe, references) if references is not None else recipe
    seed_everything(recipe.train.seed)
    parts = build_parts(meant, say)
    parents = _parents(meant, parts)
    if earlier is not None and (last := newest(folder)) is not None:
        was = earlier["parents"]
        if "regions" in parents and same_regions(was.get("regions", ""), parents["regions"]):
            was = {**was, "regions": parents["regions"]}
        check_same(folder, load_recipe(str(folder / "recipe.yaml")), recipe, (was, parents))
        state = load_state(last)
        _check_kept(folder, state, last)
    check_card()
    threads = use_threads(parts.student, state.run["threads"] if state is not None else None)
    precision = choose_precision(recipe.train.precision)
    if recipe.train.fsdp and precision.name == "fp16":
        raise InputError(
            f"train.fsdp computes in bf16 or fp32, not in fp16 ({precision.reason})",
            where=f"recipe {recipe.name}",
            hint="set train.precision=fp32",
        )
    uses_all_parameters = all(phase.objective.uses_all_parameters for phase in make_phases(recipe, parts, 1))
    uses_all_parameters = uses_all_parameters and getattr(parts.student, "uses_all_parameters", True)
    together.meet("data and models are read")
    together.begin()
    accelerator = make_accelerator(
        precision, recipe.train.batch.accumulate, recipe.train.trackers, folder, uses_all_parameters=uses_all_parameters
    )
    manifest = new_manifest(
        stage.name,
        recipe=recipe.name,
        recipe_hash=recipe_hash(recipe),
        overrides=stage.overrides,
        seed=recipe.train.seed,
        parents=parents,
        references=resolved(recipe) if references is None else references,
        data=str(parts.data.folder.resolve()),
        counts={"train": len(parts.train), "val": len(parts.val)},
        partial=bool(recipe.data.limit or parts.data.manifest.get("partial")),
        status="running",
        device=device_name(accelerator.device),
        precision=precision.name,
    )
    warning = check_run(state, accelerator.num_processes, folder) if state is not None else None
    if state is not None and earlier is not None:
        at = {"step": state.step, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        manifest |= {"created": earlier["created"], "resumed": [*earlier.get("resumed", []), at], **gone_on(earlier)}
        if others := differences(earlier):
            note = f"begun with {shown(others)}: results may not be those of a run without a break"
            warning = f"{warning}; {note}" if warning else note
    if accelerator.is_main_process:
        if state is None and folder.exists():
            # Out of the way first: half a folder would be nothing that could be gone on with, or replaced.
            retired = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(retired)
            shutil.rmtree(retired)
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, manifest)
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
    accelerator.wait_for_everyone()
    meter, spent = CostMeter(accelerator.device), state.values["cost"] if state is not None else None
    session = _Session(stage, parts, accelerator, precision, threads, flag, state, lambda: add_costs(spent, meter.read()))
    try:
        with meter:
            flag.wait()
            best = _train(session, warning)
    except BaseException as error:
        manifest["status"] = {KeyboardInterrupt: "interrupted", Preempted: "preempted"}.get(type(error), "failed")
        if isinstance(error, VldistillError) and error.hint == NO_ROOM:
            error.hint = f"{NO_ROOM}, with --resume auto"
        if accelerator.is_main_process:
            with suppress(VldistillError):  # of a full disk, which the error says already
                write_manifest(folder, manifest)
        raise
    cost = _cost_of_all(session.cost(), accelerator)
    accelerator.end_training()
    manifest |= {
        "best": {"step": best.step, **needed(best.metrics, "a validation")},
        "wall_s": cost["seconds"],
        "cost": cost,
        "status": "complete",
        "complete": True,
    }
    if accelerator.is_main_process:
        # An interrupted run has no such list, since its files still change. What was written is listed, not what is there by now.
        files = needed(best.files, "the best model's files")
        publish(folder, best.step, files)
        manifest["files"] = {
            "recipe.yaml": hashlib.sha256(dump_recipe(recipe).encode()).hexdigest(),
            CURVE: session.curve,
            **{f"{MODEL}/{name}": digest for name, digest in files.items()},
        }
        write_manifest(folder, manifest)
        remove_states(folder)
        remove_best(folder)
    return manifest


def _check_kept(folder: Path, state: State, checkpoint: Path) -> None:
    """Raises InputError where what the run goes on from, beside the checkpoint itself, is not what the checkpoint records."""
    if is_first_rank():
        check_best(folder, state.values["best"], state.step, checkpoint)
    digest = state.values.get("curve_sha256")  # a checkpoint of an earlier version has none
    if digest is not None and hashlib.sha256(kept_curve(folder, state.values["curve"])).hexdigest() != digest:
        raise InputError(
            f"differs from what the checkpoint of step {state.step} records",
            where=str(folder / CURVE),
            hint=f"remove {checkpoint}, so that the one before it is taken, or start anew with --overwrite",
        )


def _cost_of_all(cost: dict[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """Of the ranks together: the largest memory of one, and all their GPUs' energy. A machine's CPU packages count once."""
    if accelerator.num_processes == 1:
        return cost
    from accelerate.utils import gather_object

    costs = gather_object([cost])
    cost |= {name: max(one[name] for one in costs) for name in ("memory_bytes", "gpu_memory_bytes") if name in cost}
    if cost.get("energy_of") == "GPU":
        cost["energy_j"] = round(sum(one.get("energy_j", 0.0) for one in costs), 1)
    return cost


def _train(session: _Session, warning: str | None) -> Best:
    stage, recipe, parts, accelerator = session.stage, session.recipe, session.parts, session.accelerator
    folder, world, state = stage.folder, accelerator.num_processes, session.state
    phases = make_phases(recipe, parts, world, accelerator.process_index)
    teacher = parts.teacher.to(accelerator.device) if parts.teacher else None
    parts.student.to(accelerator.device)
    shared = {"student": parts.student, **{f"objective.{phase.name}": phase.objective for phase in phases}}
    tracker = None
    if recipe.train.trackers:
        accelerator.init_trackers("vldistill", config={"recipe": recipe.name, "seed": recipe.train.seed})
        tracker = accelerator.log
    guard = PreemptionGuard(
        session.flag, accelerator, minutes=recipe.train.checkpoint_minutes, every=recipe.train.checkpoint_every
    )
    with RunLog(
        folder,
        phases[-1].plan.last,
        active=accelerator.is_main_process,
        tracker=tracker,
        keep=state.values["curve"] if state is not None else 0,
    ) as run_log:
        _tell(session, phases, run_log, warning)
        if state is not None:
            put_back(state, shared)
        elif parts.anchor:
            fits = fit_anchors(
                parts.student,
                cast(Advl, parts.objective).distances.to(accelerator.device),
                parts.anchor,
                accelerator.device,
                batch=eval_pairs(recipe),
            )
            explained = ", ".join(f"{name} {fit.r2:.2f}" for name, fit in fits.items())
            run_log.say(f"maps anchored on {len(parts.anchor.inputs)} records without labels; variance explained: {explained}")
        if recipe.train.fsdp and world > 1:
            shard(parts.student, accelerator)
        best = Best()
        for number, phase in phases_after(state, phases):
            start = state if state is not None and number == state.phase else None
            checkpointer = Checkpoints(folder, guard, run_log, number, start, shared, session.cost)
            best = run_phase(
                phase, recipe, parts, accelerator, teacher, run_log, checkpointer, out=folder if phase is phases[-1] else None
            )
        session.curve = run_log.digest()
        accuracy = needed(best.metrics, "a validation")["accuracy"]
        run_log.say(f"best: accuracy {accuracy:.4f} at step {best.step}; model in {folder / 'model'}")
    return best


def _tell(session: _Session, phases: list[Phase], run_log: RunLog, warning: str | None) -> None:
    """The head of the log, at the start and at every new one."""
    accelerator, precision = session.accelerator, session.precision
    for name, value in describe(session.stage, session.parts, accelerator.num_processes).items():
        if name != "run":
            run_log.say(f"{name}: {value}")
    why = f" ({session.threads.reason})" if accelerator.device.type == "cpu" else ""
    run_log.say(
        f"computing on: {device_name(accelerator.device)}{why}, {precision.name} ({precision.reason}), "
        f"{accelerator.num_processes} process(es), {phases[-1].pairs} pairs a step"
    )
    if (unused := unused_gpu()) is not None:
        run_log.say(f"WARNING: {unused}")
    if session.state is not None:
        run_log.say(f"going on after step {session.state.step}")
    if warning:
        run_log.say(warning)


def _parents(recipe: Recipe, parts: Parts) -> dict[str, str]:
    """Fingerprints of what the run was made from."""
    parents = {"data": parts.data.fingerprint}
    parents |= {f"data.mix.{number}": open_data(Path(part.path)).fingerprint for number, part in enumerate(recipe.data.mix)}
    parents |= method_of(recipe.objective.kind).parents(parts)
    for role, source in (("init", recipe.student.init), ("teacher", recipe.teacher.model if recipe.teacher else None)):
        if source:
            parents[role] = digest_of_weights(resolve_model(source)) or source
    if recipe.regions is not None:
        parents["regions"] = RegionStore(Path(recipe.regions.path)).manifest["fingerprint"]
    for number, path in enumerate(recipe.text.vocabulary_from if recipe.student.init is None else ()):
        parents[f"text.vocabulary_from.{number}"] = open_data(Path(path)).fingerprint
    for role, name in recipe.student.weight_files().items():
        if Path(name).is_file():
            parents[role] = file_digest(Path(name))
    return parents
