"""What the store is used for: one table, by which stores of every kind are listed, checked, staged and made again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Use:
    """stage: of its manifests. place: where its stores lie, unless they are put elsewhere. make_it: the command that makes one.
    again(folder, manifest): what a user does about one that is damaged or outdated. shared: whether it grows in its place, by
    several processes side by side, in a folder that is named after all that its values depend on. files: that belong to it beside
    its rows."""

    stage: str
    place: Path
    make_it: str
    again: Callable[[Path, dict[str, Any]], str]
    shared: bool = False
    files: tuple[str, ...] = ()

    def mend(self, folder: Path, manifest: dict[str, Any]) -> str:
        """The same, whatever the manifest holds."""
        try:
            return self.again(folder, manifest)
        except (KeyError, TypeError, ValueError, AttributeError):
            return f"make it again with: {self.make_it}"


def _cache_again(folder: Path, manifest: dict[str, Any]) -> str:
    return "delete this cache's folder and make it again: vldistill cache"


def _regions_again(folder: Path, manifest: dict[str, Any]) -> str:
    """As far as the manifest tells."""
    options, words = manifest.get("options") or {}, ["vldistill", "prepare", "regions"]
    words += ["import", "--raw"] if "format" in options else ["compute", "--data"]
    words.append(str(manifest.get("source", "FEATURES")))
    if "format" in options:
        rule = ["--threshold", f"{options['threshold']:g}", "--boxes", ",".join(map(str, options["boxes"]))]
        words += ["--format", options["format"], *rule]
    else:
        way, _, side = str(options.get("boxes")).partition(" ")
        given = {"--weights": options.get("weights"), "--network": options.get("network"), "--grid": side * (way == "grid")}
        words += [word for option, value in given.items() if value and value != "hub" for word in (option, str(value))]
    words += ["--limit", str(options["limit"])] if options.get("limit") else []
    return "make it again with: " + shlex.join([*words, "--out", str(folder), "--overwrite"])


def _index_again(folder: Path, manifest: dict[str, Any]) -> str:
    source = manifest.get("encoded") or manifest.get("root") or "IMAGES"
    model = str(manifest.get("source", "RUN"))
    words = ["vldistill", "index", "build", model, str(source), "--out", str(folder), "--overwrite"]
    return f"build it again with: {shlex.join(words)}"


FEATURES = Use("cache", Path("artifacts/cache"), "vldistill cache", _cache_again, shared=True)
REGIONS = Use("regions", Path("artifacts/regions"), "vldistill prepare regions import --raw FEATURES", _regions_again)
INDEX = Use(
    "index",
    Path("artifacts/index"),
    "vldistill index build RUN IMAGES",
    _index_again,
    files=("images.jsonl",),
)
USES = (FEATURES, REGIONS, INDEX)
