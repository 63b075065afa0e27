"""Recipes: found, overridden by `key=value`, validated, with one clear message for every fault."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vldistill.artifacts import MANIFEST, fingerprint, write_bytes
from vldistill.errors import InputError, Problems, needed
from vldistill.places import check_file
from vldistill.recipe.schema.recipe import Recipe
from vldistill.recipe.schema.students import STUDENTS
from vldistill.recipe.strict_yaml import KeyPath, Lines, dump_yaml, parse_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package once installed, beside it in a checkout.
RECIPES = next(p for p in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if p.is_dir())
MAX_BYTES = 1 << 20
_FEW = 3


def find_recipe(name: str) -> Path:
    """The recipe that `name` means: a path, or the stem of one that ships with the tool."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = RECIPES / f"{path.stem}.yaml"
    if shipped.is_file() and path.parent in (Path(), Path("recipes")):
        return shipped
    near = difflib.get_close_matches(path.stem, [p.stem for p in shipped_recipes()], 1)
    hint = f"did you mean recipes/{near[0]}.yaml?" if near else "`vldistill recipe ls` lists those that ship with the tool"
    raise InputError("no such recipe", where=name, hint=hint)


def shipped_recipes() -> list[Path]:
    """The recipes that come with the tool, by name."""
    return sorted(RECIPES.glob("*.yaml"))


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Reads, overrides and validates a recipe. Raises InputError with every fault, each with its file and line."""
    path, problems = find_recipe(name), Problems()
    values, lines = read_values(path, problems)
    if not isinstance(values, dict):
        raise InputError("a recipe is a table of sections", where=f"{path}:1", hint="see `vldistill recipe show quickstart_dide`")
    if (path.parent / MANIFEST).is_file():
        _forget_other_kinds(values)
    for override in overrides or []:
        _apply(values, override, lines, problems)
    if values.get("name") in (None, ""):
        values["name"] = path.stem
    return _validate(values, lines, str(path), problems)


def _forget_other_kinds(recipe: dict[str, Any]) -> None:
    """Runs of earlier versions have the fields of every kind of student in their recipe; those of other kinds meant nothing."""
    student = recipe.get("student")
    if not isinstance(student, dict) or student.get("kind") not in STUDENTS:
        return

    def keep(values: dict[str, Any], own: type[BaseModel], others: set[tuple[str, ...]], prefix: tuple[str, ...]) -> None:
        for name, value in list(values.items()):
            if name not in own.model_fields and (*prefix, name) in others:
                del values[name]
            elif isinstance(value, dict) and name in own.model_fields:
                for inner in models_in(own.model_fields[name].annotation):
                    keep(value, inner, others, (*prefix, name))

    known = {path for section in STUDENTS.values() for path in all_keys(section)}
    keep(student, STUDENTS[student["kind"]], known, ())


def read_values(path: Path, problems: Problems) -> tuple[Any, Lines]:
    """What a recipe's file holds, see `parse_yaml`, unjudged. Raises InputError where it cannot be read."""
    if not path.is_file():
        raise InputError("is not a file", where=str(path), hint="name a recipe")
    if path.stat().st_size > MAX_BYTES:
        raise InputError("is larger than 1 MiB", where=str(path), hint="a recipe is a short text")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=str(path)) from None
    return parse_yaml(text, str(path), problems)


def _apply(values: dict[str, Any], override: str, lines: Lines, problems: Problems) -> None:
    key, equals, text = override.partition("=")
    where = f"override {override!r}"
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        problems.add("is not of the form key=value", where=where, hint="for example train.batch.pairs=64")
        return
    inner = Problems()
    try:
        value, inner_lines = (text, {}) if _is_text(parts, text) else parse_yaml(text, "override", inner)
    except InputError as error:
        problems.add(error.message, where=where, hint=error.hint)
        return
    for fault in inner.items:
        problems.add(fault.message, where=where, hint=fault.hint)
    # Faults below this key are the override's from now on, and so are those of tables that it creates on the way.
    for path in [path for path in lines if path[: len(parts)] == parts]:
        del lines[path]
    lines.update({(*parts, *path): where for path in inner_lines})
    table = values
    for depth, part in enumerate(parts[:-1], start=1):
        if not isinstance(table.get(part), dict):
            table[part] = {}
            lines[parts[:depth]] = where
        table = table[part]
    table[parts[-1]] = value if text.strip() else None


def _is_text(parts: KeyPath, given: str) -> bool:
    """Whether an override is taken as it is written: the field holds a text and nothing else, so that a folder may be called
    `2014` or `x #1`. A field that may be null still is by `null`, and quotes around the whole are YAML's."""
    models: list[type[BaseModel]] = [Recipe]
    for part in parts[:-1]:
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [inner for annotation in annotations for inner in models_in(annotation)]
    kinds = [
        {get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(declared) or (declared,)}
        for model in models
        if parts[-1] in model.model_fields
        for declared in [model.model_fields[parts[-1]].annotation]
    ]
    if not kinds or any(kind - {str, type(None)} for kind in kinds) or given.strip()[:1] in ("'", '"'):
        return False
    return not any(type(None) in kind for kind in kinds) or given.strip() not in ("null", "~", "")


def _validate(values: dict[str, Any], lines: Lines, source: str, problems: Problems) -> Recipe:
    recipe = None
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        faults: dict[KeyPath, dict[str, Any]] = {}
        for fault in error.errors():
            path = _keys(fault)
            if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
                path = (*path, "kind")
            # A union reports each of its members; the first says enough, with the others' demand joined to it.
            if path in faults:
                faults[path]["msg"] += f", or {fault['msg'][0].lower()}{fault['msg'][1:]}"
            else:
                faults[path] = dict(fault)
        for path, fault in faults.items():
            problems.add(_message(fault, path), where=_line(path, lines, source), hint=_hint(fault, path, values, lines))
    problems.raise_if_any(source)
    return needed(recipe, "the recipe")


def _keys(fault: Mapping[str, Any]) -> KeyPath:
    """A fault's location without what is no key of a recipe: pydantic's names for the members of a union."""
    location, names = fault["loc"], {name for path in all_keys() for name in path}
    unknown = len(location) - 1 if fault["type"] == "extra_forbidden" else None
    return tuple(part for place, part in enumerate(location) if isinstance(part, int) or part in names or place == unknown)


def _line(path: KeyPath, lines: Lines, source: str) -> str:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, source)


def _message(fault: dict[str, Any], path: KeyPath) -> str:
    key, given = ".".join(map(str, path)) or "the recipe", fault["input"]
    kind = fault["type"]
    if kind == "extra_forbidden":
        return f"unknown key `{key}`"
    if kind == "missing":
        return f"`{key}` is missing"
    if kind == "value_error":
        return f"{key}: {fault['ctx']['error']}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = given.get("kind") if isinstance(given, dict) else given
        return f"`{key}` is {tag!r}; it must be one of {fault['ctx'].get('expected_tags', 'labels, dide')}"
    text = fault["msg"][0].lower() + fault["msg"][1:]
    return f"`{key}` is {given!r}: {text}"


def _hint(fault: dict[str, Any], path: KeyPath, values: dict[str, Any], lines: Lines) -> str | None:
    if fault["type"] != "extra_forbidden":
        return None
    names, section = _fields_at(path[:-1], values), str(path[0])
    if kinds := _kinds_with(path):
        few = (
            f"only {_KINDS[section]} of kind {', '.join(kinds[:-1])}{' or ' * (len(kinds) > 1)}{kinds[-1]} has it"
            if len(kinds) <= _FEW
            else ""
        )
        hint = few or f"valid for this kind: {', '.join(names)}"
        by_itself = lines.get((section, "kind"), "").startswith(f"override '{section}.kind=")
        whole = f"; `{section}={{kind: {values[section]['kind']}}}` leaves the recipe's other fields of it out"
        return hint + whole * by_itself
    near = difflib.get_close_matches(str(path[-1]), names, 1, cutoff=0.5)
    if near:
        return f"did you mean `{'.'.join(map(str, (*path[:-1], near[0])))}`?"
    elsewhere = [".".join(p) for p in all_keys() if p[-1] == path[-1]]
    return f"did you mean `{elsewhere[0]}`?" if elsewhere else f"valid here: {', '.join(names)}"


_KINDS = {"student": "a student", "objective": "an objective"}
"""Sections whose fields depend on their `kind`."""


def _kinds_with(path: KeyPath) -> list[str]:
    """The kinds of students or objectives that have a field, where not all do."""
    if path[0] not in _KINDS:
        return []
    sections = models_in(Recipe.model_fields[str(path[0])].annotation)
    return [get_args(model.model_fields["kind"].annotation)[0] for model in sections if path[1:] in all_keys(model)]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold, by its annotation."""
    # Python 3.10 takes list[int] for a type.
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _fields_at(path: KeyPath, values: Any) -> list[str]:
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        values = values.get(part, {}) if isinstance(values, dict) else {}
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [inner for annotation in annotations for inner in models_in(annotation)]
        kind = values.get("kind") if isinstance(values, dict) else None
        chosen = [m for m in models if "kind" in m.model_fields and kind in get_args(m.model_fields["kind"].annotation)]
        models = chosen or models
    return [name for model in models for name in model.model_fields]


def all_keys(model: type[BaseModel] = Recipe, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key path that a recipe may hold."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append((*prefix, name))
        for inner in models_in(field.annotation):
            keys += all_keys(inner, (*prefix, name))
    return list(dict.fromkeys(keys))


def dump_recipe(recipe: Recipe) -> str:
    """A resolved recipe as YAML, every field written out; reading it back gives the same recipe."""
    return dump_yaml(recipe.model_dump())


def recipe_hash(recipe: Recipe) -> str:
    """Fingerprint of everything but the name, the description, the seed and when checkpoints are saved, so that seeds of one
    variant share it."""
    values = recipe.model_dump(
        exclude={"name": True, "description": True, "train": {"seed", "checkpoint_minutes", "checkpoint_every"}}
    )
    return fingerprint(values)


def recipe_fields(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every field by its dotted name, with its value."""

    def walk(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return walk(recipe.model_dump(), "")


def variant_name(recipe: Recipe, overrides: list[str], name: str | None) -> str:
    """The run's folder below `runs/<recipe>/`: `name`, else a slug of the overrides and 8 digits of the recipe's hash."""
    if name:
        if not re.fullmatch(r"[\w.+=-]+", name) or name.startswith("."):
            raise InputError(f"run name {name!r} is not a plain folder name", hint="use letters, digits, '-', '_', '.'")
        return name
    kept = [o for o in overrides if not o.startswith(("train.seed=", "name="))]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(o.rsplit(".", 1)[-1] if "=" in o else o for o in kept)).strip("-.")[:48]
    return f"{slug or 'default'}-{recipe_hash(recipe)[:8]}"


def copy_recipe(name: str, target: Path) -> Path:
    """Copies a shipped recipe for editing. Raises InputError where the target exists."""
    source = find_recipe(name)
    destination = target / source.name if target.is_dir() else target
    if destination.exists():
        raise InputError("already exists", where=str(destination), hint="choose another name")
    check_file(destination)
    write_bytes(destination, source.read_bytes())
    return destination
