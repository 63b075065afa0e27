"""Recipes: YAML with line numbers, `key=value` overrides, and one clear message for every fault.

Scalars are read as YAML 1.2's core schema does: `1e-5` is a number, `no` and `on` are text, and `010` is no number. Aliases,
tags and duplicate keys are refused.
"""

from __future__ import annotations

import difflib
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vldistill.artifacts import fingerprint
from vldistill.errors import InputError, Problems
from vldistill.schema import Recipe

_HERE = Path(__file__).resolve().parent
# Inside the package once installed, beside it in a checkout.
RECIPES = next(p for p in (_HERE / "recipes", _HERE.parent / "recipes") if p.is_dir())
MAX_BYTES = 1 << 20
MAX_DEPTH = 20

Path_ = tuple[str | int, ...]
Lines = dict[Path_, str]  # key path -> "file:line", or "override a.b"


class _Loader(yaml.SafeLoader):
    """Composes nodes only; scalars are resolved by `_scalar`."""


_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?$")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style is not None:  # quoted
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NUMBER.match(text):
        return int(text)
    if any(map(str.isdigit, text)) and _DECIMAL.match(text):
        return float(text)
    return text


def _parse(text: str, source: str, problems: Problems) -> tuple[Any, Lines]:
    """The value of a YAML text and the line of every key; structural faults go to `problems`."""
    lines: Lines = {}

    def walk(node: yaml.Node, path: Path_) -> Any:
        where = f"{source}:{node.start_mark.line + 1}"
        lines.setdefault(path, where)
        if len(path) > MAX_DEPTH:
            raise InputError("is nested too deeply", where=where)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [walk(item, (*path, index)) for index, item in enumerate(node.value)]
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, at = str(key_node.value), f"{source}:{key_node.start_mark.line + 1}"
            if key in table:
                first = lines[(*path, key)].rsplit(":", 1)[-1]
                problems.add(f"key `{'.'.join(map(str, (*path, key)))}` appears twice, first in line {first}", where=at,
                             hint="keep one of them")
                continue
            lines[(*path, key)] = at
            table[key] = walk(value_node, (*path, key))
        return table

    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError("aliases (*name) are not allowed", where=f"{source}:{event.start_mark.line + 1}",
                                 hint="write the value out")
            if getattr(event, "tag", None):
                raise InputError(f"tags ({event.tag}) are not allowed", where=f"{source}:{event.start_mark.line + 1}",
                                 hint="write a plain value")
        node = yaml.compose(text, Loader=_Loader)
        return (walk(node, ()) if node is not None else {}), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"is not valid YAML: {error.problem or error.context}", where=f"{source}:{line}") from None
    except yaml.YAMLError as error:
        raise InputError(f"is not valid YAML: {str(error).splitlines()[0]}", where=source) from None
    except RecursionError:
        raise InputError("is nested too deeply", where=source) from None


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
    if path.stat().st_size > MAX_BYTES:
        raise InputError("is larger than 1 MiB", where=str(path), hint="a recipe is a short text")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=str(path)) from None
    values, lines = _parse(text, str(path), problems)
    if not isinstance(values, dict):
        raise InputError("a recipe is a table of sections", where=f"{path}:1", hint="see `vldistill recipe show quickstart_dide`")
    for override in overrides or []:
        _apply(values, override, lines, problems)
    if not values.get("name"):
        values["name"] = path.stem
    return _validate(values, lines, str(path), problems)


def _apply(values: dict[str, Any], override: str, lines: Lines, problems: Problems) -> None:
    key, equals, text = override.partition("=")
    where = f"override {override!r}"
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        problems.add("is not of the form key=value", where=where, hint="for example train.batch.pairs=64")
        return
    try:
        value, _ = _parse(text, "override", problems)
    except InputError as error:
        problems.add(error.message, where=where)
        return
    table = values
    for part in parts[:-1]:
        if not isinstance(table.get(part), dict):
            table[part] = {}
        table = table[part]
    table[parts[-1]] = value if text.strip() else None
    lines[parts] = where


def _validate(values: dict[str, Any], lines: Lines, source: str, problems: Problems) -> Recipe:
    recipe = None
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            path = tuple(part for part in fault["loc"] if _is_key(part, fault["loc"], values))
            problems.add(*_message(fault, path), where=_line(path, lines, source), hint=_hint(fault, path, values))
    problems.raise_if_any(source)
    return recipe


def _is_key(part: str | int, loc: tuple, values: Any) -> bool:
    """Discriminated unions put the chosen kind into the location, which is no key of the file."""
    index = loc.index(part)
    return not (index > 0 and loc[index - 1] == "objective" and part in ("labels", "dide"))


def _line(path: Path_, lines: Lines, source: str) -> str:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, source)


def _message(fault: dict[str, Any], path: Path_) -> tuple[str]:
    key, given = ".".join(map(str, path)) or "the recipe", fault["input"]
    kind = fault["type"]
    if kind == "extra_forbidden":
        return (f"unknown key `{key}`",)
    if kind == "missing":
        return (f"`{key}` is missing",)
    if kind == "value_error":
        return (f"{key}: {fault['ctx']['error']}",)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = given.get("kind") if isinstance(given, dict) else given
        return (f"`{key}.kind` is {found!r}; it must be one of {fault['ctx'].get('expected_tags', 'labels, dide')}",)
    text = fault["msg"][0].lower() + fault["msg"][1:]
    return (f"`{key}` is {given!r}: {text}",)


def _hint(fault: dict[str, Any], path: Path_, values: dict[str, Any]) -> str | None:
    if fault["type"] != "extra_forbidden":
        return None
    names = _fields_at(path[:-1], values)
    near = difflib.get_close_matches(str(path[-1]), names, 1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    elsewhere = [".".join(p) for p in all_keys() if p[-1] == path[-1]]
    return f"did you mean `{elsewhere[0]}`?" if elsewhere else f"valid here: {', '.join(names)}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _fields_at(path: Path_, values: dict[str, Any]) -> list[str]:
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        values = values.get(part, {}) if isinstance(values, dict) else {}
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [inner for annotation in annotations for inner in _models(annotation)]
        kind = values.get("kind") if isinstance(values, dict) else None
        chosen = [m for m in models if "kind" in m.model_fields and kind in get_args(m.model_fields["kind"].annotation)]
        models = chosen or models
    return [name for model in models for name in model.model_fields]


def all_keys(model: type[BaseModel] = Recipe, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key path that a recipe may hold."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append((*prefix, name))
        for inner in _models(field.annotation):
            keys += all_keys(inner, (*prefix, name))
    return keys


def dump_recipe(recipe: Recipe) -> str:
    """A resolved recipe as YAML, every field written out; reading it back gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True, width=100)


def recipe_hash(recipe: Recipe) -> str:
    """Fingerprint of everything but the name, the description and the seed, so that seeds of one variant share it."""
    values = recipe.model_dump(exclude={"name": True, "description": True, "train": {"seed"}})
    return fingerprint(values)


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
    shutil.copyfile(source, destination)
    return destination
