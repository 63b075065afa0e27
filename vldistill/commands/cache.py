"""`vldistill cache`: teacher features on disk, built; and all stores, verified and listed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from vldistill.commands.output import last_line, plan_table
from vldistill.errors import InputError, VldistillError
from vldistill.recipe.load import load_recipe
from vldistill.recipe.schema.recipe import Recipe
from vldistill.store.listing import list_stores
from vldistill.store.uses import FEATURES, USES, Use
from vldistill.store.verify import verify_store
from vldistill.terminal import Table, say, show
from vldistill.versions import differences, shown

PLAIN_EVERY_SECONDS = 15


def cache_command(
    recipe: str | None,
    overrides: list[str],
    *,
    shard: str,
    limit: int | None,
    prefetch: bool,
    verify: bool,
    rows: int,
    ls: bool,
    dry_run: bool,
) -> None:
    """Builds what a recipe's objective needs, or does what one of the switches says."""
    if sum((prefetch, verify, ls)) > 1:
        raise InputError("--prefetch, --verify and --ls are three things", hint="give one of them")
    if ls:
        _list(_places(load_recipe(recipe, overrides) if recipe else None))
        return
    if recipe is None and verify:
        _refuse(sum(_check(entry.folder, use) for use, root in _places(None).items() for entry in list_stores(root, use)))
        return
    if recipe is None:
        raise InputError("--recipe is missing", hint="vldistill cache --recipe FILE; or --ls or --verify, which need none")
    chosen = _cacheable(load_recipe(recipe, [*overrides, *([f"data.limit={limit}"] if limit else [])]), recipe)
    from vldistill.training.caches import TeacherCaches
    from vldistill.training.methods.table import METHODS

    caches = TeacherCaches(chosen)
    if prefetch:
        _prefetch(caches)
        return
    inputs = caches.inputs(METHODS[chosen.objective.kind].features(chosen))
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
        show(plan_table(f"cache {chosen.name}", table))
        return
    started = time.monotonic()
    if any(missing.values()):
        caches.build(inputs, _say, shard=part, progress=_Progress())
    caches.settle(inputs, [role for role, count in missing.items() if not count], part)
    left = sum(len(keys) for keys in caches.missing(inputs).values())
    wanted = sum(len(own.keys(inputs)) for own in caches.parts.values())
    _say(f"{wanted - left:,} of {wanted:,} rows are there" + (f"; {left:,} are other writers'" if left else ""))
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
    from vldistill.training.methods.table import METHODS

    if METHODS[recipe.objective.kind].cached:
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


def _say(text: str) -> None:
    say(text)


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
            _say(f"{kind}: {done:,}/{todo:,} rows, {rate:,.0f} a second, {(todo - done) / max(rate, 1e-9):,.0f} s left of them")


def _prefetch(caches: Any) -> None:
    for teacher in (caches.vision, caches.text, caches.relevance.clip if caches.relevance else None):
        if teacher is not None:
            count = sum(parameter.numel() for parameter in teacher.network.parameters())
            _say(f"{teacher.fields['model']}: {count:,} parameters, weights {teacher.fields['weights']}")
    if caches.text is not None and hasattr(caches.text, "tokenizer"):
        _say(f"{caches.text.fields['model']}: tokenizer of {len(caches.text.tokenizer):,} tokens")


def _places(recipe: Recipe | None) -> dict[Use, Path]:
    """Where stores are looked for: a recipe's caches, or all that commands have put where they do by themselves."""
    return {FEATURES: Path(recipe.cache.path)} if recipe else {use: use.place for use in USES}


def _verify(caches: Any, inputs: Any, rows: int) -> None:
    faults = 0
    for part in caches.parts.values():
        if part.cache is None:
            _say(f"{part.name}: no cache with this recipe's fields")
            faults += 1
            continue
        faults += _check(part.cache.folder, FEATURES)
    if not faults and rows:
        for role, cosine in caches.recomputed(inputs, rows).items():
            _say(f"{role}: {rows} rows computed again, smallest cosine {cosine:.6f}")
    _refuse(faults)


def _check(folder: Path, use: Use) -> int:
    """How many faults a store has, each of which is told."""
    report = verify_store(folder, use)
    for damage in report.damages:
        _say(str(damage))
    _say(f"{folder}: {report.rows:,} rows, {report.bytes / 1e6:,.1f} MB checked, {len(report.damages)} fault(s)")
    return len(report.damages)


def _refuse(faults: int) -> None:
    if faults:
        raise VldistillError(f"{faults} fault(s) found", hint="make what is damaged again")


def _list(places: dict[Use, Path]) -> None:
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
