"""What each field of a recipe means: the fields' own docstrings, as a reference and beside a recipe's values."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vldistill.recipe.load import dump_recipe, models_in
from vldistill.recipe.schema.recipe import Recipe

WIDTH = 100
"""Of a line of comment."""
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
_BOUNDS = {
    Ge: ("ge", "from {}"),
    Gt: ("gt", "over {}"),
    Le: ("le", "up to {}"),
    Lt: ("lt", "below {}"),
    MinLen: ("min_length", "of {} or more"),
}
_SAFETY = 1000
"""Upper bounds from here on are there against slips of the finger, and tell nobody anything."""
_KEY = re.compile(r"^( *)(\w+):")


@dataclass
class FieldEntry:
    """A field. takes: what it may be. default: as YAML; None where one must be given, "" of a section with defaults of its own.
    kinds: of the sections that have it, where not all members of a union do."""

    name: str
    takes: str
    default: str | None
    meaning: str
    kinds: list[str] = field(default_factory=list)


def reference(prefix: str = "") -> list[FieldEntry]:
    """Every field that a recipe may have below a dotted name, members of a union one after the other."""
    entries: dict[tuple, FieldEntry] = {}
    for entry, kind in _entries(Recipe, "", ""):
        if f"{entry.name}.".startswith(f"{prefix}." if prefix else ""):
            known = entries.setdefault((entry.name, entry.takes, entry.default, entry.meaning), entry)
            known.kinds += [kind] if kind else []
    for entry in entries.values():
        if set(entry.kinds) == _kinds(entry.name.partition(".")[0]):
            entry.kinds = []
    return list(entries.values())


def explained(recipe: Recipe) -> str:
    """A recipe as YAML, with what each field means as a comment above it."""
    lines: list[str] = []
    sections: list[Any] = [recipe]
    for line in dump_recipe(recipe).splitlines():
        match = _KEY.match(line)
        depth = len(match[1]) // 2 if match else len(sections)
        if match and depth < len(sections) and isinstance(sections[depth], BaseModel):
            owner, name = sections[depth], match[2]
            meaning = _flat(type(owner).model_fields[name].description)
            lines += [f"{match[1]}# {part}" for part in textwrap.wrap(meaning, WIDTH - len(match[1]))]
            sections = [*sections[: depth + 1], getattr(owner, name)]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _entries(section: type[BaseModel], prefix: str, kind: str) -> Iterator[tuple[FieldEntry, str]]:
    for name, info in section.model_fields.items():
        inner = models_in(info.annotation)
        if name == "kind" and kind:  # which says what the whole section is
            yield FieldEntry(f"{prefix}kind", kind, None, _flat(section.__doc__)), ""
            continue
        yield FieldEntry(f"{prefix}{name}", _takes(info, inner), _default(info), _flat(info.description)), kind
        for member in inner:
            own = get_args(member.model_fields["kind"].annotation)[0] if len(inner) > 1 else kind
            yield from _entries(member, f"{prefix}{name}.", own)


def _kinds(section: str) -> set[str]:
    members = models_in(Recipe.model_fields[section].annotation)
    return {get_args(member.model_fields["kind"].annotation)[0] for member in members} if len(members) > 1 else set()


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


def _default(info: FieldInfo) -> str | None:
    if info.is_required():
        return None
    return "" if isinstance(info.default, BaseModel) else json.dumps(info.default).strip('"')


def _takes(info: FieldInfo, inner: list[type[BaseModel]]) -> str:
    if inner:
        more = "list of sections" if get_origin(info.annotation) is list else "section"
        return more + (" or null" if type(None) in get_args(info.annotation) else "")
    return " or ".join(dict.fromkeys(_words(info.annotation, info.metadata)))


def _words(annotation: Any, bounds: list[Any] | tuple = ()) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _words(inner[0], (*bounds, *_without_fields(inner[1:])))
    elif origin is Literal:
        yield from map(str, inner)
    elif origin is list:
        yield " ".join([f"list of {' or '.join(_words(inner[0]))}", *_bounds(bounds)])
    elif inner:
        for part in inner:
            yield from _words(part, bounds)
    else:
        yield " ".join([_WORDS[annotation], *(_bounds(bounds) if annotation is not type(None) else ())])


def _bounds(metadata: list[Any] | tuple) -> Iterator[str]:
    for one in _without_fields(metadata):
        for kind, (name, words) in _BOUNDS.items():
            if isinstance(one, kind) and not (kind is Le and one.le >= _SAFETY):
                yield words.format(f"{getattr(one, name):g}")


def _without_fields(metadata: list[Any] | tuple) -> list[Any]:
    """What pydantic's Field holds stands for it."""
    return [inner for one in metadata for inner in (one.metadata if isinstance(one, FieldInfo) else [one])]
