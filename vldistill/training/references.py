"""What the names in a recipe meant when they were first resolved: folders and fingerprints.

"runs/teacher" means the only run below that folder, which is another one as soon as there are two, or a later one of the same
name. A run keeps in its manifest the folder that each name led to (`references`) and the fingerprint of what it found there
(`parents`); whoever needs the same thing later takes it from there, and tells where it is no longer what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import resolve_model
from vldistill.models.base.weights import digest_of_weights
from vldistill.recipe.schema.recipe import Recipe

FIELDS = {
    "init": ("student", "init"),
    "teacher": ("teacher", "model"),
    "teachers.vision": ("teachers", "vision", "model"),
    "teachers.text": ("teachers", "text", "model"),
}
"""Recipe fields that may name a run, by the role that it plays."""


def named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(role, name) of every field of FIELDS that is set."""
    for role, path in FIELDS.items():
        value: Any = recipe
        for part in path:
            value = getattr(value, part, None)
        if value:
            yield role, value


def resolved(recipe: Recipe) -> dict[str, dict[str, str]]:
    """By role the name and, where that is a folder of this machine, the model folder that it leads to now. Raises InputError
    where a run has no model, or there are several."""
    return {
        role: {"name": name, "folder": str(resolve_model(name).resolve())}
        for role, name in named(recipe)
        if _is_ours(recipe, role, Path(name).expanduser())
    }


def _is_ours(recipe: Recipe, role: str, folder: Path) -> bool:
    """Whether a folder is, or holds, a run or a model: unimodal teachers may be folders of other libraries, which are taken as
    they are."""
    if not role.startswith("teachers."):
        return folder.is_dir()
    kind = getattr(recipe.teachers, role.removeprefix("teachers.")).kind
    return folder.is_dir() and kind in ("timm", "transformers") and not (folder / "config.json").exists()


def pinned(recipe: Recipe, references: dict[str, dict[str, str]]) -> Recipe:
    """The recipe with each name that still stands for what it stood for replaced by the folder that it then led to, if that is
    there."""
    names, updates = dict(named(recipe)), {}
    for role, kept in references.items():
        if names.get(role) == kept["name"] and Path(kept["folder"]).is_dir():
            updates[FIELDS[role]] = kept["folder"]
    for path, folder in updates.items():
        recipe = _with(recipe, path, folder)
    return recipe


def _with(section: Any, path: tuple[str, ...], value: str) -> Any:
    first, *rest = path
    return section.model_copy(update={first: _with(getattr(section, first), tuple(rest), value) if rest else value})


def check_teacher(recipe: Recipe, manifest: dict[str, Any], run: Path) -> None:
    """Raises InputError where the fusion teacher that a run's recipe names is another model than the one that taught it."""
    kept = manifest.get("parents", {}).get("teacher")
    if recipe.teacher is None or kept is None:
        return
    current = digest_of_weights(resolve_model(recipe.teacher.model)) or recipe.teacher.model
    if current != kept:
        raise InputError(
            f"{recipe.teacher.model} is another model than the one that taught it: {current[:12]}, not {kept[:12]}",
            where=str(run),
            hint="put the teacher back where it was, or distil the run again with --overwrite",
        )
