"""`vldistill cache`: teacher features on disk, built; and all stores, verified and listed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, LimitOption, Overrides
from vldistill.commands.output import last_line, show_plan
from vldistill.errors import InputError, VldistillError
from vldistill.store.uses import FEATURES, USES, Use
from vldistill.terminal import Table, say, show

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe

PLAIN_EVERY_SECONDS = 15
_PLACES = {use: use.place for use in USES}
"""Where commands put stores by themselves."""


def cache(
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", metavar="FILE", help="Recipe file, or a shipped name.")] = None,
    overrides: Overrides = None,
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="Compute only part I of N, from 0.")] = "0/1",
    limit: LimitOption = None,
    prefetch: Annotated[bool, typer.Option("--prefetch", help="Only download the teachers' weights.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check what is stored.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="Rows that --verify recomputes.")] = 16,
    ls: Annotated[bool, typer.Option("--ls", help="List what is stored.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Store frozen teachers' features on disk."""
    if sum((prefetch, verify, ls)) > 1:
        raise InputError("--prefetch, --verify and --ls are three things", hint="give one of them")
    from vldistill.recipe.load import load_recipe

    if ls:
        _list({FEATURES: Path(load_recipe(recipe, overrides or []).cache.path)} if recipe else _PLACES)
        return
    if recipe is None and verify:
        _verify_all()
        return
    if recipe is None:
        raise InputError("--recipe is missing", hint="vldistill cache --recipe FILE; or --ls or --verify, which need none")
    chosen = _cacheable(load_recipe(recipe, [*(overrides or []), *([f"data.limit={limit}"] if limit else [])]), recipe)
    from vldistill.training.caches import TeacherCaches
    from vldistill.training.methods.base import method_of

    caches = TeacherCaches(chosen)
    if prefetch:
        _prefetch(caches)
        return
    inputs = caches.inputs(method_of(chosen.objective.kind).features(chosen))
    if verify:
        _verify(caches, inputs, rows)
        return
    part = _part(shard)
    missing = {role: len(keys) for role, keys in caches.missing(inputs).items()}
    if dry_run:
        table = {
            role: f"{len(caches.parts[role].keys(inputs)):,} wanted, {count:,} missing; in "
            f"{caches.parts[role].cache.folder if caches.parts[role].cache else chosen.cache.path}"
            for role, count in missing.items()
        }
        show_plan(f"cache {chosen.name}", table)
        return
    started = time.monotonic()
    if any(missing.values()):
        caches.build(inputs, say, shard=part, progress=_Progress())
    caches.settle(inputs, [role for role, count in missing.items() if not count], part)
    left = sum(len(keys) for keys in caches.missing(inputs).values())
    wanted = sum(len(own.keys(inputs)) for own in caches.parts.values())
    say(f"{wanted - left:,} of {wanted:,} rows are there" + (f"; {left:,} are other writers'" if left else ""))
    last_line(
        {
            "rows": wanted - left,
            "missing": left,
            "wall_s": round(time.monotonic() - started, 1),
            "caches": [str(own.cache.folder) for own in caches.parts.values() if own.cache is not None],
        }
    )


def _cacheable(recipe: Recipe, name: str) -> Recipe:
    """The recipe, as one whose teachers can be stored. Raises InputError where they cannot."""
    from vldistill.training.methods.base import method_of

    if method_of(recipe.objective.kind).cached:
        if recipe.cache.mode == "live":
            return recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"mode": "auto"})})
        return recipe
    if recipe.teacher is None:
        raise InputError("nothing to cache: the recipe has no teacher", where=name, hint="train it with: vldistill finetune")
    raise InputError(
        f"nothing to cache: a {recipe.teacher.kind} teacher runs live, its attention maps are too large to store",
        where=name,
        hint=f"go on with: vldistill distill --recipe {name}",
    )


def _part(text: str) -> tuple[int, int]:
    """`i/n`, with i from 0."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not int(index) < int(count):
        raise InputError(f"--shard {text!r} is not i/n with 0 <= i < n", hint="for example --shard 0/8, up to 7/8")
    return int(index), int(count)


class _Progress:
    """A plain line now and then: builds run for hours, mostly into a file."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, kind: str, done: int, todo: int, seconds: float) -> None:
        """The time left is that of this kind alone, by the seconds that its own rows took: texts and words come in turns."""
        now = time.monotonic()
        last = self._last.setdefault(kind, now)
        if now - last > PLAIN_EVERY_SECONDS or done == todo:
            self._last[kind] = now
            rate = done / max(seconds, 1e-9)
            say(f"{kind}: {done:,}/{todo:,} rows, {rate:,.0f} a second, {(todo - done) / max(rate, 1e-9):,.0f} s left of them")


def _prefetch(caches: Any) -> None:
    for teacher in (caches.vision, caches.text, caches.relevance.clip if caches.relevance else None):
        if teacher is not None:
            count = sum(parameter.numel() for parameter in teacher.network.parameters())
            say(f"{teacher.fields['model']}: {count:,} parameters, weights {teacher.fields['weights']}")
    if caches.text is not None and hasattr(caches.text, "tokenizer"):
        say(f"{caches.text.fields['model']}: tokenizer of {len(caches.text.tokenizer):,} tokens")


def _verify(caches: Any, inputs: Any, rows: int) -> None:
    faults = 0
    for part in caches.parts.values():
        if part.cache is None:
            say(f"{part.name}: no cache with this recipe's fields")
            faults += 1
            continue
        faults += _check(part.cache.folder, FEATURES)
    if not faults and rows:
        for role, cosine in caches.recomputed(inputs, rows).items():
            say(f"{role}: {rows} rows computed again, smallest cosine {cosine:.6f}")
    _refuse(faults)


def _verify_all() -> None:
    from vldistill.store.inspection import list_stores

    _refuse(sum(_check(entry.folder, use) for use, root in _PLACES.items() for entry in list_stores(root, use)))


def _check(folder: Path, use: Use) -> int:
    """How many faults a store has, each of which is told."""
    from vldistill.store.inspection import verify_store

    report = verify_store(folder, use)
    for damage in report.damages:
        say(str(damage))
    say(f"{folder}: {report.rows:,} rows, {report.bytes / 1e6:,.1f} MB checked, {len(report.damages)} fault(s)")
    return len(report.damages)


def _refuse(faults: int) -> None:
    if faults:
        raise VldistillError(f"{faults} fault(s) found", hint="make what is damaged again")


def _list(places: dict[Use, Path]) -> None:
    from vldistill.store.inspection import list_stores
    from vldistill.versions import differences, shown

    table = Table("store")
    table.figures("rows", "MB", "s")
    table.words("weights", "of", "state")
    for use, entry in [(own, entry) for own, root in places.items() for entry in list_stores(root, own)]:
        state = entry.problem or ("complete" if entry.complete else f"{entry.wanted - entry.rows:,} rows missing")
        if entry.made and (others := differences(entry.made)):
            state += f"; made with {shown(others)}"
        figures = f"{entry.rows:,}", f"{entry.bytes / 1e6:,.1f}", f"{entry.seconds:,.1f}"
        # Two teachers may have one name.
        weights = str(entry.fields.get("weights", ""))
        table.add_row(entry.folder.name, *figures, weights[:8], str(entry.fields.get("feature", use.stage)), state)
    if table.row_count:
        show(table)
    else:
        say(f"no stores in {', '.join(map(str, places.values()))}")
