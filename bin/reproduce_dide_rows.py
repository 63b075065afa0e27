"""The rows of DiDE's tables and of its Fig. 3, at full size and, of tables 4 to 7, in the toy world: a recipe with overrides
each, and the published percentages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vldistill.evaluation.report.published import row_figures


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
    # the paper's name; recipe and overrides by column, where the paper has figures
    "teacher": ("ViLT (teacher)", {}),
    "pixelbert": ("PixelBERT-R50", _each("pixelbert", "nlvr2", "vqa")),
    "clip": ("CLIP", _dual("clip_nlvr2", "train.batch.pairs=256")),
    "slip": ("SLIP", _dual("slip_nlvr2", "train.batch.accumulate=8")),
    "declip": ("DeCLIP", _dual("declip_nlvr2", "train.batch.pairs=256")),
    "dide": ("DiDE", {}),
    "visualbert": ("VisualBERT", _each("visualbert", "nlvr2", "vqa")),
    "lxmert": ("LXMERT", _each("lxmert", "nlvr2", "vqa")),
    "uniter": ("UNITER-Base", _UNITER),
}
# Fig. 3 has no figures in print.
_FIGURE_3 = {"labels": ("finetune", ()), "soft-labels": ("distill", ("objective.attention=none",)), "dide": ("distill", ())}
_TABLE_4 = {"teacher": "ViLT (teacher)", "dide": "DiDE", "no-cross-attention": "DiDE without attention"}
# pre-training, fine-tuning: "kd" with distillation, "std" without, "none"
_TABLE_5 = (("kd", "kd"), ("none", "std"), ("none", "kd"), ("std", "std"), ("std", "kd"), ("kd", "std"))
_TABLE_6 = {
    "dide": (),
    # With the true labels instead, which the paper does not say: a head that nothing trains would answer at chance.
    "no-soft-label": ("objective.soft_labels=false", "objective.hard_label_weight=1"),
    "no-cross-attention": ("objective.attention=none",),
    "hidden-states": ("objective.attention=none", "objective.hidden_states=true"),
    "uni-attention": ("objective.attention=uni",),
    "whole-attention": ("objective.attention=whole",),
}
_TABLE_7 = ("last", "top", "bottom", "all")


def _paper(table: str, row: str, column: str) -> dict[str, float]:
    return {place.split: value for place, value in row_figures("DiDE", table, row, column).items()}


def _teachers(world: World) -> Iterator[Row]:
    for column, task in world.tasks.items():
        yield Row("teacher", task, "", (), _paper("2", "ViLT (teacher)", column), (*task.start, task.teacher))


def _rows(world: World, name: str, stage: str, overrides: tuple[str, ...], source: tuple[str, str],
          before: tuple[Step, ...] = ()) -> Iterator[Row]:
    """source: table and row of the paper."""
    for column, task in world.tasks.items():
        yield Row(name, task, stage, overrides, _paper(*source, column), (*task.start, task.teacher, *before))


def _table_2(world: World) -> Iterator[Row]:
    """DiDE, from its pre-training, beside fusion encoders and other dual encoders, which learn from labels."""
    for name, (printed, recipes) in _TABLE_2.items():
        if name == "teacher":
            yield from _teachers(world)
        elif name == "dide":
            step = world.pretraining["kd"]
            yield from _rows(world, name, "distill", (f"student.init={step.folder}",), ("2", printed), (step,))
        else:
            for column, (recipe, overrides) in recipes.items():
                task = replace(world.tasks[column], recipe=recipe, overrides=overrides)
                yield Row(name, task, "finetune", (), _paper("2", printed, column))


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
    for name, printed in _TABLE_4.items():
        teacher, figures = name == "teacher", row_figures("DiDE", "4", printed, "caption")
        fields = (f"student.init={step.folder}", *["objective.attention=none"] * (name == "no-cross-attention"))
        yield Row(name, task, "" if teacher else "distill" if name == "dide" else "finetune", () if teacher else fields,
                  {place.metric: value for place, value in figures.items()}, (*task.start, task.teacher, *[step] * (not teacher)))


def _table_5(world: World) -> Iterator[Row]:
    """Where distillation takes place: pre-training, fine-tuning, both."""
    yield from _teachers(world)
    for pretraining, tuning in _TABLE_5:
        step = world.pretraining.get(pretraining)
        start = (f"student.init={step.folder}",) if step else ()
        yield from _rows(world, f"{pretraining}-{tuning}", "distill" if tuning == "kd" else "finetune", start,
                         ("5", f"pre-training {pretraining}, fine-tuning {tuning}"), (step,) if step else ())


def _table_6(world: World) -> Iterator[Row]:
    """What is distilled; students start from the pre-trained fusion encoder."""
    yield from _teachers(world)
    for name, overrides in _TABLE_6.items():
        yield from _rows(world, name, "distill", overrides, ("6", name))


def _table_7(world: World) -> Iterator[Row]:
    """Which layers."""
    yield from _teachers(world)
    for name in _TABLE_7:
        yield from _rows(world, name, "distill", (f"objective.layers={name}",), ("7", f"layers {name}"))


TABLES = {"2": _table_2, "fig3": _figure_3, "4": _table_4, "5": _table_5, "6": _table_6, "7": _table_7}
FULL_ONLY = ("2", "fig3")
"""Those without a version in the toy world, which has none of these models."""
TITLES = {"2": "understanding", "fig3": "METER and OSCAR as teachers", "4": "retrieval",
          "5": "distillation in pre-training and fine-tuning", "6": "distilled knowledge", "7": "distilled layers"}


def name_of(table: str) -> str:
    return f"Fig. {table.removeprefix('fig')}" if table.startswith("fig") else f"Table {table}"


def rows_of(table: str, world: World) -> list[Row]:
    return list(TABLES[table](world))
