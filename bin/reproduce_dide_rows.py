"""The rows of DiDE's tables and of its Fig. 3, at full size and, of tables 4 to 7, in the toy world: a recipe with overrides
each, and the published percentages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A training that rows build on, once for all seeds."""

    stage: str
    recipe: str
    variant: str
    overrides: tuple[str, ...] = ()
    seed: int = 0

    @property
    def folder(self) -> Path:
        return Path("runs", self.recipe, self.variant, f"seed{self.seed}")

    @property
    def command(self) -> list[str]:
        fields = [f"train.seed={self.seed}", *self.overrides]
        return ["vldistill", self.stage, "--recipe", self.recipe, *fields, "--name", self.variant]


@dataclass(frozen=True)
class Task:
    """What a student is fine-tuned on. recipe: its distillation. splits: what it is evaluated on, by `metrics`. teacher: the
    fusion model that it learns from. start: what it starts from without pre-training of its own, and what that takes."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    splits: tuple[str, ...]
    teacher: Step
    start: tuple[Step, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)


@dataclass(frozen=True)
class Row:
    """name: of the table's row. stage: "distill", "finetune", or "" for the teacher, which is there already. paper: by split, or
    by metric."""

    name: str
    task: Task
    stage: str
    overrides: tuple[str, ...] = ()
    paper: dict[str, float] = field(default_factory=dict)
    before: tuple[Step, ...] = ()


_RECALLS = ("ir_r1", "ir_r5", "ir_r10", "tr_r1", "tr_r5", "tr_r10")
_STANDARD = ("objective.attention=none", "objective.soft_labels=false", "objective.hard_label_weight=1")


@dataclass(frozen=True)
class World:
    """tasks: by the name of the paper's columns. pretraining: DiDE's, "kd" with distillation and "std" without. retrieval: image
    and text retrieval."""

    tasks: dict[str, Task]
    pretraining: dict[str, Step]
    retrieval: Task


def _full() -> World:
    splits = {"nlvr2": ("val", "test"), "snli_ve": ("val", "test"), "vqa": ("val",)}
    tasks = {name: Task(name, f"dide_vilt_{name}", (), evaluated, Step("finetune", f"vilt_{name}", "default"))
             for name, evaluated in splits.items()}
    recipe = "dide_vilt_pretrain"
    retrieval = Task("flickr30k", "dide_vilt_flickr30k", (), ("test",), Step("finetune", "vilt_flickr30k", "default"),
                     metrics=_RECALLS)
    return World(tasks, {"kd": Step("pretrain", recipe, "kd"), "std": Step("pretrain", recipe, "std", _STANDARD)}, retrieval)


def _toy() -> World:
    """pairmore stands for NLVR2, ve3 for SNLI-VE."""
    easy = Step("finetune", "quickstart_pretrain", "default")
    fusion = Step("pretrain", "quickstart_fusion", "default")
    entailment = "data.path=artifacts/data/toy-snli_ve"
    ve3_teacher = Step("finetune", "quickstart_teacher", "ve3",
                       (entailment, "student.init=runs/quickstart_fusion", "train.steps=1000"))
    ve3 = (entailment, "student.init=runs/quickstart_fusion", f"teacher.model={ve3_teacher.folder}", "train.steps=700")
    teacher = Step("finetune", "quickstart_teacher", "default")
    pairmore = (f"teacher.model={teacher.folder}",)
    tasks = {"nlvr2": Task("pairmore", "quickstart_dide", pairmore, ("test",), teacher, (easy,)),
             "snli_ve": Task("ve3", "quickstart_dide", ve3, ("test",), ve3_teacher, (easy, fusion))}
    recipe = "quickstart_dide_pretrain"
    retrieval = Task("captions", "quickstart_retrieval", (), ("test",),
                     Step("finetune", "quickstart_retrieval_teacher", "default"), (easy, fusion), _RECALLS)
    return World(tasks, {"kd": Step("pretrain", recipe, "kd"), "std": Step("pretrain", recipe, "std", _STANDARD)}, retrieval)


FULL, TOY = _full(), _toy()
# The columns of the paper's tables: dev and test-P of NLVR2, val and test of SNLI-VE, test-dev of VQA.
_COLUMNS = (("nlvr2", "val"), ("nlvr2", "test"), ("snli_ve", "val"), ("snli_ve", "test"), ("vqa", "test-dev"))
_TEACHER = (75.7, 76.1, 76.6, 76.4, 71.3)

_SMALLER, _LATE_HEAD = "train.epochs=10", "optim.head_lr_multiplier=10.0"  # SNLI-VE and VQA (Appendix A), VQA's head


def _dual(recipe: str, batch: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """A dual encoder's runs from its recipe for NLVR2. batch: what makes it 256 pairs."""
    return {"nlvr2": (recipe, ()), "snli_ve": (recipe, ("data.path=artifacts/data/snli_ve", _SMALLER, batch)),
            "vqa": (recipe, ("data.path=artifacts/data/vqa", _SMALLER, batch, _LATE_HEAD))}


def _each(name: str, *tasks: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {task: (f"{name}_{task}", ()) for task in tasks}


# UNITER-base's own numbers, over the recipes of UNITER-large. What it trains on several GPUs, 4,096 x 4 x 2 and 5,120 x 5 x 4
# tokens, is accumulated on one here.
_BASE = ("student.init=models/uniter-base", "optim.lr=8e-5")
_UNITER = {
    "nlvr2": ("uniter_nlvr2", ()),
    "snli_ve": ("advl_uniter_snli_ve", (*_BASE, "optim.warmup=400", "train.steps=4000", "train.batch.tokens=4096",
                                        "train.batch.accumulate=8")),
    "vqa": ("advl_uniter_vqa", (*_BASE, "optim.warmup=600", "train.steps=6000", "train.batch.tokens=5120",
                                "train.batch.accumulate=20")),
}
_TABLE_2 = {
    # recipe and overrides by column; nothing where the paper has no figures
    "teacher": ({}, _TEACHER),
    "pixelbert": (_each("pixelbert", "nlvr2", "vqa"), (71.7, 72.4, None, None, 71.4)),
    "clip": (_dual("clip_nlvr2", "train.batch.pairs=256"), (50.9, 51.1, 68.4, 68.6, 50.2)),
    "slip": (_dual("slip_nlvr2", "train.batch.accumulate=8"), (50.9, 51.1, 70.9, 71.0, 55.9)),
    "declip": (_dual("declip_nlvr2", "train.batch.pairs=256"), (50.9, 51.1, 69.9, 70.2, 59.6)),
    "dide": ({}, (75.3, 75.6, 76.5, 76.3, 69.2)),
    "visualbert": (_each("visualbert", "nlvr2", "vqa"), (67.4, 67.0, None, None, 70.8)),
    "lxmert": (_each("lxmert", "nlvr2", "vqa"), (74.9, 74.5, None, None, 72.4)),
    "uniter": (_UNITER, (75.9, 75.8, 78.6, 78.3, 72.7)),
}
# Fig. 3 has no figures in print.
_FIGURE_3 = {"labels": ("finetune", ()), "soft-labels": ("distill", ("objective.attention=none",)), "dide": ("distill", ())}
_TABLE_4 = {
    "teacher": (64.4, 88.7, 93.8, 83.5, 96.7, 98.6),
    "dide": (68.2, 89.8, 94.2, 83.2, 96.7, 98.8),
    "no-cross-attention": (66.6, 89.2, 93.4, 81.6, 95.6, 98.4),
}
_TABLE_5 = {
    # pre-training, fine-tuning: "kd" with distillation, "std" without, "none"
    ("kd", "kd"): (75.56, 75.26, 76.53, 76.33, 69.05),
    ("none", "std"): (50.85, 51.07, 72.10, 71.83, 64.94),
    ("none", "kd"): (67.63, 68.14, 75.37, 74.95, 67.06),
    ("std", "std"): (69.77, 70.71, 75.26, 74.99, 66.25),
    ("std", "kd"): (73.06, 74.11, 76.11, 75.87, 67.10),
    ("kd", "std"): (70.98, 71.40, 75.30, 75.21, 66.84),
}
_TABLE_6 = {
    "dide": ((), (67.6, 68.2, 75.4, 75.0, 67.1)),
    # With the true labels instead, which the paper does not say: a head that nothing trains would answer at chance.
    "no-soft-label": (("objective.soft_labels=false", "objective.hard_label_weight=1"), (66.8, 67.9, 74.2, 74.7, 66.9)),
    "no-cross-attention": (("objective.attention=none",), (50.9, 51.1, 73.6, 73.5, 66.5)),
    "hidden-states": (("objective.attention=none", "objective.hidden_states=true"), (56.5, 56.0, 71.5, 71.3, 62.6)),
    "uni-attention": (("objective.attention=uni",), (64.8, 65.6, 74.8, 74.8, 66.6)),
    "whole-attention": (("objective.attention=whole",), (64.7, 66.0, 74.9, 74.7, 66.6)),
}
_TABLE_7 = {
    "last": (67.6, 68.2, 75.4, 75.0, 67.1),
    "top": (66.0, 67.3, 75.2, 74.8, 66.8),
    "bottom": (63.5, 63.0, 75.1, 74.7, 66.6),
    "all": (67.0, 67.4, 75.2, 74.8, 66.8),
}


def _paper(column: str, figures: tuple[float | None, ...]) -> dict[str, float]:
    return {split: figure for (task, split), figure in zip(_COLUMNS, figures, strict=True) if task == column}


def _teachers(world: World) -> Iterator[Row]:
    for column, task in world.tasks.items():
        yield Row("teacher", task, "", (), _paper(column, _TEACHER), (*task.start, task.teacher))


def _rows(world: World, name: str, stage: str, overrides: tuple[str, ...], figures: tuple[float, ...],
          before: tuple[Step, ...] = ()) -> Iterator[Row]:
    for column, task in world.tasks.items():
        yield Row(name, task, stage, overrides, _paper(column, figures), (*task.start, task.teacher, *before))


def _table_2(world: World) -> Iterator[Row]:
    """DiDE, from its pre-training, beside fusion encoders and other dual encoders, which learn from labels."""
    for name, (recipes, figures) in _TABLE_2.items():
        if name == "teacher":
            yield from _teachers(world)
        elif name == "dide":
            step = world.pretraining["kd"]
            yield from _rows(world, name, "distill", (f"student.init={step.folder}",), figures, (step,))
        else:
            for column, (recipe, overrides) in recipes.items():
                task = replace(world.tasks[column], recipe=recipe, overrides=overrides)
                yield Row(name, task, "finetune", (), _paper(column, figures))


def _figure_3(world: World) -> Iterator[Row]:
    """METER and OSCAR as teachers on NLVR2: their dual encoders with labels, soft labels, and attention too."""
    for kind in ("meter", "oscar"):
        step = Step("finetune", f"{kind}_nlvr2", "default")
        task = replace(world.tasks["nlvr2"], recipe=f"dide_{kind}_nlvr2", teacher=step)
        yield Row(f"{kind}-teacher", task, "", before=(step,))
        for name, (stage, overrides) in _FIGURE_3.items():
            yield Row(f"{kind}-{name}", task, stage, overrides, before=(step,) if stage == "distill" else ())


def _table_4(world: World) -> Iterator[Row]:
    """Retrieval, from DiDE's pre-training, with and without attention."""
    task, step = world.retrieval, world.pretraining["kd"]
    for name, figures in _TABLE_4.items():
        teacher = name == "teacher"
        fields = (f"student.init={step.folder}", *["objective.attention=none"] * (name == "no-cross-attention"))
        yield Row(name, task, "" if teacher else "distill" if name == "dide" else "finetune", () if teacher else fields,
                  dict(zip(_RECALLS, figures, strict=True)), (*task.start, task.teacher, *[step] * (not teacher)))


def _table_5(world: World) -> Iterator[Row]:
    """Where distillation takes place: pre-training, fine-tuning, both."""
    yield from _teachers(world)
    for (pretraining, tuning), figures in _TABLE_5.items():
        step = world.pretraining.get(pretraining)
        start = (f"student.init={step.folder}",) if step else ()
        yield from _rows(world, f"{pretraining}-{tuning}", "distill" if tuning == "kd" else "finetune", start, figures,
                         (step,) if step else ())


def _table_6(world: World) -> Iterator[Row]:
    """What is distilled; students start from the pre-trained fusion encoder."""
    yield from _teachers(world)
    for name, (overrides, figures) in _TABLE_6.items():
        yield from _rows(world, name, "distill", overrides, figures)


def _table_7(world: World) -> Iterator[Row]:
    """Which layers."""
    yield from _teachers(world)
    for name, figures in _TABLE_7.items():
        yield from _rows(world, name, "distill", (f"objective.layers={name}",), figures)


TABLES = {"2": _table_2, "fig3": _figure_3, "4": _table_4, "5": _table_5, "6": _table_6, "7": _table_7}
FULL_ONLY = ("2", "fig3")
"""Those without a version in the toy world, which has none of these models."""
TITLES = {"2": "understanding", "fig3": "METER and OSCAR as teachers", "4": "retrieval",
          "5": "distillation in pre-training and fine-tuning", "6": "distilled knowledge", "7": "distilled layers"}


def name_of(table: str) -> str:
    return f"Fig. {table.removeprefix('fig')}" if table.startswith("fig") else f"Table {table}"


def rows_of(table: str, world: World) -> list[Row]:
    return list(TABLES[table](world))
