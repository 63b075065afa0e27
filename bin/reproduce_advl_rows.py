"""The rows of ADVL's result tables: a recipe with overrides each, beside the published accuracies in percent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vldistill.evaluation.report.published import row_figures

SETTINGS = ("100", "1000", "full")
"""Examples of each type, or all data."""
SHIFT = "shift"
"""The run with all data on the domain-shifted validation set."""
# The objective's components in the order of Table 1, and how each is switched off.
_PARTS = {"vision": "vision=false", "text": "text=false", "confidence": "confidence=false", "words": "words=0",
          "two-step": "itm_fraction=0"}
_CLIP = "{kind: open_clip, model: ViT-B-32-quickgelu, weights: openai}"
_ROBERTA = "{kind: transformers, model: FacebookAI/roberta-large}"
_SLIP = "{kind: slip, model: models/slip-base}"
_VIT = "{kind: timm, model: vit_large_patch32_224.orig_in21k}"
_SWIN = "{kind: timm, model: swinv2_large_window12_192.ms_in22k}"
# Teachers of a pair, and the student's layers that they are compared with.
_PAIRS = {"slip": (_SLIP, _SLIP, "last", "last"), "clip": (_CLIP, _CLIP, "last", "last"),
          "clip-roberta": (_CLIP, _ROBERTA, "last", "half"), "vit-roberta": (_VIT, _ROBERTA, "half", "half"),
          "swin-roberta": (_SWIN, _ROBERTA, "half", "half")}
_STUDENTS = {
    "vlbert": {"vcr": "advl_vlbert_vcr", "snli-ve": "advl_vlbert_snli_ve", "vqa": "advl_vlbert_vqa"},
    "uniter": {"vcr": "advl_uniter", "snli-ve": "advl_uniter_snli_ve", "vqa": "advl_uniter_vqa"},
    "villa": {"vcr": "advl_swin_roberta", "snli-ve": "advl_snli_ve", "vqa": "advl_vqa"},
    "clip-vil": {"vcr": "clip_vil_vcr", "snli-ve": "clip_vil_snli_ve", "vqa": "clip_vil_vqa"},
}
FALLING = {"advl_vlbert_vcr"}
"""Recipes whose learning rate falls at milestones."""


@dataclass(frozen=True)
class Row:
    """name: unique in its table. task: what it is trained on. metric: by which it is judged. teachers: False trains it by
    `finetune`. paper: by setting."""

    name: str
    task: str
    metric: str
    recipe: str
    teachers: bool
    overrides: tuple[str, ...]
    paper: dict[str, float]


def _row(
    name: str, student: str, task: str, source: tuple[int, str], *, teachers: bool, overrides: tuple[str, ...] = (),
    metric: str = "",
) -> Row:
    """source: table and row of the paper."""
    metric = metric or ("q_to_a" if task == "vcr" else "accuracy")
    figures = row_figures("ADVL", str(source[0]), source[1], task.replace("-", "_"))
    paper = {SHIFT if place.split != "val" else place.examples: value
             for place, value in figures.items() if place.metric == metric}
    return Row(name, task, metric, _STUDENTS[student][task], teachers, overrides, paper)


def _table_1() -> Iterator[Row]:
    """VL-BERT on VCR, component by component."""
    rows = {"baseline": (), "vision": ("vision",), "text": ("text",), "both": ("vision", "text"),
            "confidence": ("vision", "text", "confidence"), "words": ("vision", "text", "confidence", "words"),
            "two-step": tuple(_PARTS)}
    for name, on in rows.items():
        off = tuple(f"objective.{value}" for part, value in _PARTS.items() if part not in on) if on else ()
        yield _row(name, "vlbert", "vcr", (1, name), teachers=bool(on), overrides=("data.part=answers", *off))


def _with_pair(pair: str, layer: int | None = None) -> tuple[str, ...]:
    """Overrides to a pair of teachers, and to another layer than is best for it."""
    vision, text, *best = _PAIRS[pair]
    layers = best if layer is None else [layer, layer]
    return (f"teachers.vision={vision}", f"teachers.text={text}", f"objective.layers.vision={layers[0]}",
            f"objective.layers.text={layers[1]}")


def _table_2() -> Iterator[Row]:
    """VILLA with each pair of teachers."""
    for task in ("vcr", "snli-ve", "vqa"):
        for pair in (None, *_PAIRS):
            yield _row(f"{task}-{pair or 'baseline'}", "villa", task, (2, f"VILLA, {pair}" if pair else "VILLA"),
                       teachers=pair is not None, overrides=_with_pair(pair) if pair else ())


def _table_3() -> Iterator[Row]:
    """Each student on VCR, without and with teachers: Q->A, and QA->R with all data."""
    for student, printed, teachers in _with_and_without():
        name, own = student + "-advl" * teachers, {"teachers": teachers, "overrides": ("data.part=answers",)}
        yield _row(name, student, "vcr", (3, printed), **own)
        if student != "clip-vil":
            own["overrides"] = ("data.part=rationales",)
            yield _row(f"{name}-rationales", student, "vcr", (3, printed), **own, metric="qa_to_r")


def _table_4() -> Iterator[Row]:
    """Each student on SNLI-VE and VQA, without and with teachers."""
    for task in ("snli-ve", "vqa"):
        for student, printed, teachers in _with_and_without():
            yield _row(f"{task}-{student}{'-advl' * teachers}", student, task, (4, printed), teachers=teachers)


def _with_and_without() -> Iterator[tuple[str, str, bool]]:
    """Students by the paper's names; CLIP-ViL stands there without teachers only."""
    for student, printed in (("vlbert", "VL-BERT"), ("uniter", "UNITER"), ("villa", "VILLA"), ("clip-vil", "CLIP-ViL")):
        yield student, printed, False
        if student != "clip-vil":
            yield student, f"{printed} with ADVL", True


def _table_9() -> Iterator[Row]:
    """VILLA on VCR, with two pairs of teachers at four layers of 24."""
    yield _row("baseline", "villa", "vcr", (2, "VILLA"), teachers=False)
    for pair in ("clip", "swin-roberta"):
        for layer in (24, 20, 16, 12):
            yield _row(f"{pair}-layer{layer}", "villa", "vcr", (9, f"{pair}, layer {layer} of 24"), teachers=True,
                       overrides=_with_pair(pair, layer))


_ROWS = {1: _table_1, 2: _table_2, 3: _table_3, 4: _table_4, 9: _table_9}
LOWSHOT_OF = {7: 1, 8: 2, 10: 4, 11: 3}
"""The tables with the low-shot columns of others, and their deviations."""
TABLES = tuple(sorted({*_ROWS, *LOWSHOT_OF}))


def rows_of(table: int) -> list[Row]:
    return list(_ROWS[LOWSHOT_OF.get(table, table)]())
