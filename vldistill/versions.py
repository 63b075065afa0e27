"""Versions of the libraries that stored values depend on.

Nothing is found by them: the upgrade of a library must not throw away what took days to compute, and most upgrades change no
value, or its last digit. So each manifest says under which versions its artifact was made, whoever uses one that was made under
others is told so in a line, and rows of two versions come into one store only where no more than the last part of a version
differs, or where the recipe allows it (`cache.versions`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

from vldistill.errors import InputError
from vldistill.runtime import is_first_rank
from vldistill.terminal import complain_once

LIBRARIES = ("torch", "torchvision", "pillow", "timm", "transformers", "tokenizers", "open_clip_torch", "yake", "regex")
"""All that decode, resize, split, encode or score, by the names under which they are installed."""
_OTHERS = ("vldistill", "accelerate", "numpy", "safetensors")
"""What manifests name beside them."""
LATER = "later_versions"
"""The key of a manifest under which the versions stand that went on with its artifact."""

Names = frozenset[str]
_NONE: Names = frozenset()
_ALL: Names = frozenset(LIBRARIES)
_SIGHT: Names = frozenset({"torch", "pillow", "torchvision"})
_IMAGES = {"timm": _SIGHT | {"timm"}, "open_clip": _SIGHT | {"open_clip_torch"}, "slip": _SIGHT | {"timm"}, "none": _NONE}
_TEXTS = {
    "transformers": frozenset({"torch", "transformers", "tokenizers"}),
    "open_clip": frozenset({"torch", "open_clip_torch", "tokenizers"}),
    # Its vocabulary is open_clip's.
    "slip": frozenset({"torch", "open_clip_torch", "tokenizers"}),
    "none": _NONE,
}


def _of_cache(manifest: Mapping[str, Any]) -> Names:
    """By its teachers: those of an image's vector, of a text's, or of both and of how words are chosen."""
    fields = manifest.get("fields") or {}
    teacher, judge = str(fields.get("teacher")), str(fields.get("relevance teacher"))
    if fields.get("feature") == "image":
        return _IMAGES.get(teacher, _ALL)
    names = _TEXTS.get(teacher, _ALL)
    return names if fields.get("feature") == "text" else names | _IMAGES.get(judge, _ALL) | _TEXTS.get(judge, _ALL) | {"yake"}


def _of_regions(manifest: Mapping[str, Any]) -> Names:
    """Of an import the numbers are the files'."""
    return _NONE if "format" in (manifest.get("options") or {}) else _SIGHT | {"timm"}


DECIDING: dict[str, Callable[[Mapping[str, Any]], Names]] = {
    "cache": _of_cache,
    "regions": _of_regions,
    # A tower may be timm's or open_clip's.
    "index": lambda manifest: _SIGHT | {"timm", "open_clip_torch"},
    # The words of its texts; shards hold the images' own bytes.
    "prepare": lambda manifest: frozenset({"regex"}),
    "finetune": lambda manifest: _ALL,
    "distill": lambda manifest: _ALL,
    "pretrain": lambda manifest: _ALL,
    # Copies of files, or of a checkpoint's weights; a toy world is what was drawn.
    "unpack": lambda manifest: _NONE,
    "convert": lambda manifest: _NONE,
    "toy": lambda manifest: _NONE,
}
"""Of each stage, from a manifest: the libraries that decide what its artifact holds."""


@dataclass(frozen=True)
class Difference:
    """there: the versions that an artifact was made under. here: what is installed."""

    library: str
    there: tuple[str, ...]
    here: str

    @property
    def is_small(self) -> bool:
        """Whether no more than the last part differs."""
        return {_family(version) for version in self.there} == {_family(self.here)}

    def __str__(self) -> str:
        return f"{self.library} {' and '.join(self.there)} (here {self.here})"


@lru_cache(maxsize=64)
def installed(name: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    versions = {name: installed(name) for name in (*_OTHERS, *LIBRARIES)}
    return {"python": sys.version.split()[0], **{name: version for name, version in versions.items() if version is not None}}


def differences(manifest: Mapping[str, Any]) -> list[Difference]:
    """The libraries that decide an artifact's values and are installed in other versions than it was made under. What its
    manifest does not know of is left out, as is how a library was built (2.6.0+cpu is 2.6.0)."""
    made, different = _made_under(manifest), []
    for library in sorted(DECIDING[manifest["stage"]](manifest)):
        here = _plain(installed(library) or "")
        there = tuple(dict.fromkeys(_plain(str(one[library])) for one in made if library in one))
        if here and any(version != here for version in there):
            different.append(Difference(library, there, here))
    return different


def tell(changed: Iterable[Difference], where: object, again: str) -> None:
    """Says once a command, on standard error, under which other versions what it uses was made. again: how it is made anew."""
    changed = sorted(set(changed), key=lambda one: one.library)
    if changed and is_first_rank():
        complain_once(f"note: {where} was made with {shown(changed)}: computed anew, its values may differ ({again})")


def refuse_mixing(manifest: Mapping[str, Any], where: object, hint: str) -> None:
    """Raises InputError where rows computed here would stand beside those of other versions, and not by the last part alone."""
    large = [one for one in differences(manifest) if not one.is_small]
    if large:
        raise InputError(f"has rows made with {shown(large)}, which new ones would be mixed with", where=str(where), hint=hint)


def gone_on(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest of an artifact that grows says of versions once this process has added to it."""
    made, here = _made_under(manifest), package_versions()
    if not made:
        return {"versions": here}
    return {"versions": made[0], **({LATER: later} if (later := [*made[1:], *([here] if here not in made else [])]) else {})}


def shown(changed: Iterable[Difference]) -> str:
    return ", ".join(map(str, changed))


def _made_under(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    later = manifest.get(LATER)
    return [one for one in (manifest.get("versions"), *(later if isinstance(later, list) else [])) if isinstance(one, dict)]


def _plain(version: str) -> str:
    return version.partition("+")[0]


def _family(version: str) -> tuple[str, ...]:
    """All of it but the last part: 1.0 of 1.0.31."""
    return tuple(version.split(".")[:2])
