"""The data sets that `vldistill prepare` reads: one table. A new one is a file beside this one and a line in it."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from vldistill.data.records import TASKS
from vldistill.data.sources.base import nearest
from vldistill.data.sources.source import Source
from vldistill.errors import InputError

SOURCES = {
    "vqa": "vqa:VQA",
    "vcr": "vcr:VCR",
    "snli_ve": "snli_ve:SNLI_VE",
    "nlvr2": "nlvr2:NLVR2",
    "nlvr": "nlvr:NLVR",
    "flickr30k": "karpathy:FLICKR30K",
    "coco": "karpathy:COCO",
    "gcc": "captions:GCC",
    "sbu": "captions:SBU",
    "visual_genome": "visual_genome:VISUAL_GENOME",
    "jsonl": "jsonl:JSONL",
}
"""Of each name, the `Source` below this package that says what it is."""


def source_name(given: str) -> str:
    """The name in the table of what a user may have written as `SNLI-VE`. Raises InputError where there is none."""
    name = given.replace("-", "_").lower()
    if name not in SOURCES:
        raise InputError(f"data set {given!r} is not known", hint=nearest(name, SOURCES))
    return name


def labelled() -> list[str]:
    """The data sets whose records have labels, or may have."""
    tasks = {name: source_of(name).task for name in SOURCES}
    return [name.replace("_", "-") for name, task in tasks.items() if task is None or TASKS[task].target != "none"]


@cache
def source_of(name: str) -> Source:
    """Raises KeyError for a name that is not in the table."""
    module, _, attribute = SOURCES[name].partition(":")
    return getattr(import_module(f"{__package__}.{module}"), attribute)
