"""The rows of ADVL's result tables: a recipe with overrides each, and the published accuracies in percent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


def _row(name: str, student: str, task: str, paper: tuple[float, ...], *, teachers: bool, overrides: tuple[str, ...] = ()) -> Row:
    metric = "q_to_a" if task == "vcr" else "accuracy"
    return Row(name, task, metric, _STUDENTS[student][task], teachers, overrides,
               dict(zip((*SETTINGS, SHIFT), paper, strict=False)))


def _table_1() -> Iterator[Row]:
    """VL-BERT on VCR, component by component."""
    rows = {
        "baseline": ((), (30.85, 53.48, 75.53)),
        "vision": (("vision",), (34.24, 54.53, 75.92)),
        "text": (("text",), (35.96, 55.04, 76.15)),
        "both": (("vision", "text"), (36.78, 55.91, 76.37)),
        "confidence": (("vision", "text", "confidence"), (37.21, 57.64, 76.83)),
        "words": (("vision", "text", "confidence", "words"), (38.28, 58.68, 77.15)),
        "two-step": (tuple(_PARTS), (40.43, 58.98, 77.61)),
    }
    for name, (on, paper) in rows.items():
        off = tuple(f"objective.{value}" for part, value in _PARTS.items() if part not in on) if on else ()
        yield _row(name, "vlbert", "vcr", paper, teachers=bool(on), overrides=("data.part=answers", *off))


def _with_pair(pair: str, layer: int | None = None) -> tuple[str, ...]:
    """Overrides to a pair of teachers, and to another layer than is best for it."""
    vision, text, *best = _PAIRS[pair]
    layers = best if layer is None else [layer, layer]
    return (f"teachers.vision={vision}", f"teachers.text={text}", f"objective.layers.vision={layers[0]}",
            f"objective.layers.text={layers[1]}")


def _table_2() -> Iterator[Row]:
    """VILLA with each pair of teachers."""
    papers = {
        "vcr": ((34.84, 57.01, 78.27), (38.92, 57.38, 78.28), (42.04, 59.42, 78.61), (40.71, 59.36, 78.93), (39.05, 58.14, 78.42),
                (41.87, 60.18, 79.13)),
        "snli-ve": ((58.47, 67.16, 79.64), (58.67, 67.23, 79.37), (59.04, 68.37, 79.96), (58.77, 68.69, 79.75),
                    (58.44, 67.56, 79.24), (59.07, 68.83, 80.87)),
        "vqa": ((37.18, 65.75, 72.11), (39.07, 65.89, 72.14), (39.34, 66.10, 72.43), (39.12, 66.34, 72.79), (39.01, 66.17, 72.49),
                (39.67, 66.96, 73.04)),
    }
    for task, rows in papers.items():
        for pair, paper in zip((None, *_PAIRS), rows, strict=True):
            yield _row(f"{task}-{pair or 'baseline'}", "villa", task, paper, teachers=pair is not None,
                       overrides=_with_pair(pair) if pair else ())


def _table_3() -> Iterator[Row]:
    """Each student on VCR, without and with teachers: Q->A, and QA->R with all data."""
    papers = {
        "vlbert": ((30.85, 53.48, 75.53, 71.13), (40.43, 58.98, 77.61, 74.55)),
        "uniter": ((31.43, 54.24, 76.67, 73.84), (42.23, 59.88, 77.05, 74.94)),
        "villa": ((34.84, 57.01, 78.27, 75.43), (41.87, 60.18, 79.13, 76.32)),
        "clip-vil": ((34.63, 53.54, 68.36, 66.83),),
    }
    rationales = {"vlbert": (77.91, 79.02), "uniter": (79.98, 80.57), "villa": (82.33, 82.57)}
    for student, columns in papers.items():
        for teachers, paper in enumerate(columns):
            name = student + "-advl" * teachers
            yield _row(name, student, "vcr", paper, teachers=bool(teachers), overrides=("data.part=answers",))
            if student in rationales:
                yield Row(f"{name}-rationales", "vcr", "qa_to_r", _STUDENTS[student]["vcr"], bool(teachers),
                          ("data.part=rationales",), {"full": rationales[student][teachers]})


def _table_4() -> Iterator[Row]:
    """Each student on SNLI-VE and VQA, without and with teachers."""
    papers = {
        "snli-ve": {"vlbert": ((53.28, 62.31, 74.66, 70.96), (56.78, 65.37, 75.75, 73.19)),
                    "uniter": ((58.36, 66.23, 79.02, 76.72), (59.42, 68.34, 80.14, 78.54)),
                    "villa": ((58.47, 67.16, 79.64, 77.22), (59.96, 68.83, 80.87, 79.56)),
                    "clip-vil": ((59.48, 68.32, 80.61, 78.58),)},
        "vqa": {"vlbert": ((35.33, 63.29, 69.05, 67.68), (37.12, 65.71, 71.42, 70.55)),
                "uniter": ((36.46, 64.43, 71.26, 69.88), (39.75, 65.93, 71.94, 70.18)),
                "villa": ((37.18, 65.75, 72.11, 70.18), (39.67, 66.96, 73.04, 72.74)),
                "clip-vil": ((39.01, 66.84, 73.91, 71.46),)},
    }
    for task, students in papers.items():
        for student, columns in students.items():
            for teachers, paper in enumerate(columns):
                yield _row(f"{task}-{student}{'-advl' * teachers}", student, task, paper, teachers=bool(teachers))


def _table_9() -> Iterator[Row]:
    """VILLA on VCR, with two pairs of teachers at four layers of 24."""
    yield _row("baseline", "villa", "vcr", (34.84, 57.01, 78.27), teachers=False)
    papers = {
        "clip": {24: (42.04, 59.42, 78.61), 20: (40.06, 59.73, 78.03), 16: (38.53, 58.60, 78.27), 12: (37.70, 58.96, 78.00)},
        "swin-roberta": {24: (26.74, 38.99, 78.03), 20: (28.81, 45.39, 78.28), 16: (35.93, 53.10, 78.67),
                         12: (41.87, 60.18, 79.13)},
    }
    for pair, rows in papers.items():
        for layer, paper in rows.items():
            yield _row(f"{pair}-layer{layer}", "villa", "vcr", paper, teachers=True, overrides=_with_pair(pair, layer))


_ROWS = {1: _table_1, 2: _table_2, 3: _table_3, 4: _table_4, 9: _table_9}
LOWSHOT_OF = {7: 1, 8: 2, 10: 4, 11: 3}
"""The tables with the low-shot columns of others, and their deviations."""
TABLES = tuple(sorted({*_ROWS, *LOWSHOT_OF}))


def rows_of(table: int) -> list[Row]:
    return list(_ROWS[LOWSHOT_OF.get(table, table)]())
