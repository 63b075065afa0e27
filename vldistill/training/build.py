"""From a recipe to the parts of a run. The recipe object ends here: below are plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.false_texts import FalseTexts
from vldistill.data.loading import RecordDataset
from vldistill.data.mixing import MixedDataset
from vldistill.data.pretext import MLM, PRETRAINING
from vldistill.data.record_file import mapped
from vldistill.data.records import Record
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.store import RegionStore
from vldistill.data.sequences import sentences
from vldistill.data.staging import stage_images, stage_regions
from vldistill.data.text import WordTokenizer, train_tokenizer
from vldistill.data.visual import VisualInput
from vldistill.data.wording import text_of
from vldistill.errors import InputError
from vldistill.models.checkpoint import MOST_REGIONS, ModelSpec
from vldistill.models.pretraining import HEADS
from vldistill.models.recompute import set_recompute
from vldistill.objectives.base import HardLabels, Objective
from vldistill.objectives.dide import DiDE
from vldistill.objectives.matching import AdvlMatching
from vldistill.objectives.pretraining import Pretraining
from vldistill.schema import DideObjective, LabelsObjective, PretrainObjective, Recipe
from vldistill.schema import Student as StudentSection
from vldistill.schema_base import Section
from vldistill.schema_retrieval import RetrievalObjective
from vldistill.students.build import Sizes, Student, Wanted, init_student, new_from_clip, new_from_scratch
from vldistill.students.clip_vil_start import Clip
from vldistill.students.inputs import ONE_IMAGE, text_layout, visual_input
from vldistill.students.pixelbert import Pixels
from vldistill.teachers.fusion import FusionTeacher, build_fusion_teacher
from vldistill.teachers.unimodal import UnimodalTeachers
from vldistill.training.advl import Matching, build_advl, matched_pairs
from vldistill.training.anchor import AnchorInputs
from vldistill.training.caches import Say, TeacherCaches, WantedFeatures
from vldistill.training.retrieval import build_retrieval, check_captions, retrieval_heads


@dataclass
class Parts:
    """Everything that a run is made of. teacher: called with a batch, or None. dropped: training records without a usable target.
    matching: step 1 of ADVL, anchor: what its maps are fitted on before; if there are any."""

    data: DataArtifact
    train: RecordDataset | MixedDataset | FalseTexts
    val: RecordDataset | FalseTexts
    student: Student
    spec: ModelSpec
    tokenizer: WordTokenizer
    objective: Objective
    teacher: FusionTeacher | UnimodalTeachers | None
    dropped: int
    matching: Matching | None = None
    anchor: AnchorInputs | None = None


def wanted_features(recipe: Recipe) -> WantedFeatures:
    """The records whose teacher features a recipe of ADVL's asks for: its training split, step 1's pairs, the anchor's inputs."""
    chosen, data = recipe.objective, open_data(Path(recipe.data.path))
    train, _ = _trainable(_chosen_records(recipe, data, recipe.data.train), data)
    pairs = matched_pairs(train, data, recipe.data.train) if chosen.itm_fraction else []
    anchored = [anchor_records(recipe, data, train)] if chosen.map == "anchored" else []
    return [(data, [*train, *pairs]), *anchored]


def _chosen_records(recipe: Recipe, data: DataArtifact, split: str) -> Sequence[Record]:
    if recipe.objective.kind == "pretrain" and recipe.data.types is None:
        records = data.stream(split, limit=recipe.data.limit)
    else:
        records = data.records(split, types=recipe.data.types, part=recipe.data.part, limit=recipe.data.limit)
    # A text encoder reads the text of any data.
    return mapped(_without_images, records) if recipe.student.kind == "text_encoder" else records


def _without_images(record: Record) -> Record:
    return replace(record, images=[])


def build_parts(recipe: Recipe, say: Say | None = None) -> Parts:
    """Opens the data, builds student, teacher and objective, and what is missing of the teachers' caches and of copies on the
    node's own disk, telling `say` about it; without it (a dry run) nothing is built. Raises InputError where an input is missing
    or does not fit."""
    data, method = open_data(Path(recipe.data.path)), METHODS[recipe.objective.kind]
    if say is not None:
        data = stage_images(data, say)
    method.check_data(recipe.objective, data)
    train = _chosen_records(recipe, data, recipe.data.train)
    train, dropped = _trainable(train, data) if method.labelled else (train, 0)
    val = _chosen_records(recipe, data, recipe.data.val)
    for split, records in ((recipe.data.train, train), (recipe.data.val, val)):
        if method.labelled and not _labelled(records[0], data):
            raise InputError(f"split {split!r} has no labels", where=str(data.folder), hint="choose a labelled split")
    student, spec, tokenizer = build_student(recipe, data)
    if recipe.train.gradient_checkpointing and not set_recompute(student):
        raise InputError(f"train.gradient_checkpointing: a {recipe.student.kind} student computes no layer twice",
                         where=f"recipe {recipe.name}", hint="leave it out")
    if data.spec.target == "answers" and method.labelled:
        spec = replace(spec, answer_loss=recipe.objective.answer_loss)
    if recipe.image.exif:
        spec = replace(spec, upright=True)

    held = all(isinstance(records, list) for records in (train, val))
    seen = replace(spec, regions=str(stage_regions(Path(spec.regions), say))) if spec.regions and say is not None else spec
    dataset = _datasets(recipe, data, [*train, *val] if held else [], seen, tokenizer)
    mixed = dataset(train, augment=True)
    if recipe.data.mix:
        mixed = MixedDataset([(mixed, recipe.data.weight), *_mixed_in(recipe, spec, tokenizer, say)])
    parts = Parts(data, mixed, dataset(val, augment=False), student, spec, tokenizer, Objective(), None, dropped)
    method.build(parts, recipe, dataset, say)
    if parts.objective.needs_teacher and parts.teacher is None:
        parts.teacher = build_teacher(recipe, recipe.objective, parts)
    return parts


MakeDataset = Callable[..., RecordDataset]


def _datasets(
    recipe: Recipe, data: DataArtifact, shown: Sequence[Record], spec: ModelSpec, tokenizer: WordTokenizer
) -> MakeDataset:
    """What makes a dataset of an artifact's records, augmented or not. shown: all those whose images may be kept, or none."""
    visual = {augment: build_visual(recipe, data, shown, spec, augment=augment) for augment in (True, False)}
    classes = len(data.labels) if data.spec.target == "tags" else None

    def dataset(records: Sequence[Record], *, augment: bool) -> RecordDataset:
        return RecordDataset(records, text_layout(spec, tokenizer), visual[augment], pad_id=tokenizer.pad_id,
                             vocabulary=data.vocabulary, classes=classes, seed=recipe.train.seed)

    return dataset


def _mixed_in(
    recipe: Recipe, spec: ModelSpec, tokenizer: WordTokenizer, say: Say | None
) -> list[tuple[RecordDataset, float]]:
    """The artifacts of `data.mix`, with their weights."""
    found = []
    for part in recipe.data.mix:
        data = open_data(Path(part.path))
        _check_pretraining(recipe.objective, data)
        data = stage_images(data, say) if say is not None else data
        records = _chosen_records(recipe, data, part.train)
        shown = records if isinstance(records, list) else []
        found.append((_datasets(recipe, data, shown, spec, tokenizer)(records, augment=True), part.weight))
    return found


def _check_labels(chosen: Section, data: DataArtifact) -> None:
    if data.spec.target == "none":
        raise InputError(f"is a `{data.task}` artifact, which has no labels to fine-tune on", where=str(data.folder),
                         hint="choose an artifact of vcr, vqa, snli-ve, nlvr2, nlvr or jsonl")


def _check_pretraining(chosen: PretrainObjective, data: DataArtifact) -> None:
    """Raises InputError where the data lacks what the tasks need: words, and for matching one image a record."""
    if not data.spec.text or data.spec.target == "choice":
        raise InputError(f"is a `{data.task}` artifact, whose text cannot be pre-trained on", where=str(data.folder),
                         hint="choose captions, or text alone")
    seeing = [PRETRAINING[task] for task in chosen.tasks if task != MLM]
    if seeing and data.spec.images != 1:
        raise InputError(f"has {data.spec.images} images a record, {seeing[0]} needs one", where=str(data.folder),
                         hint="set objective.tasks=[mlm]")


def _add_task(parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
    parts.objective = build_objective(recipe.objective, parts.data, parts.student)


def _add_pretraining(parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
    fields, words = recipe.objective.model_dump(exclude={"kind", "mask"}), parts.tokenizer
    parts.objective = Pretraining(**fields, depth=parts.student.layers, vocabulary=len(words.vocabulary), mask_id=words.mask_id,
                                  probability=recipe.objective.mask)


def _add_retrieval(parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
    parts.objective, parts.train, parts.val = build_retrieval(recipe.objective, parts.student, parts.train, parts.val)


def _add_advl(parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
    """Objective and teachers of ADVL; a missing cache is built, unless `say` is None (a dry run)."""
    chosen, data, student = recipe.objective, parts.data, parts.student
    pairs: list[list[Record]] = [[], []]
    if chosen.itm_fraction:
        splits = (recipe.data.train, recipe.data.val)
        pairs = [matched_pairs(part.records, data, name) for part, name in zip((parts.train, parts.val), splits, strict=True)]
    anchored = anchor_records(recipe, data, parts.train.records) if chosen.map == "anchored" else None
    caches = TeacherCaches(recipe)
    if say is not None:
        wanted = [(data, [*parts.train.records, *pairs[0]])] + ([anchored] if anchored else [])
        caches.ensure(wanted, say)
    task = build_objective(chosen.task or LabelsObjective(kind="labels", answer_loss=chosen.answer_loss), data, student)
    fusion = build_teacher(recipe, chosen.task, parts) if task.needs_teacher else None
    parts.teacher = caches.teachers(data, fusion)
    widths = {"vision": caches.vision_width, "text": caches.text_width}
    advl = build_advl(chosen, task, depth=student.layers, width=student.width, **widths)
    parts.objective = advl
    if chosen.itm_fraction:
        step_1 = AdvlMatching(advl, width=student.width, depth=student.layers, score=chosen.itm_score,
                              temperature=chosen.itm_temperature)
        parts.matching = Matching(step_1, dataset(pairs[0], augment=True), dataset(pairs[1], augment=False))
    if anchored:
        source, records = anchored
        visual = build_visual(recipe, source, records, parts.spec, augment=False)
        layout = text_layout(parts.spec, parts.tokenizer)
        inputs = RecordDataset(records, layout, visual, pad_id=parts.tokenizer.pad_id)
        parts.anchor = AnchorInputs(caches.teachers(source, None), inputs)


def anchor_records(recipe: Recipe, data: DataArtifact, train: list[Record]) -> tuple[DataArtifact, list[Record]]:
    """What an anchored map is fitted on: the first records of the named artifact, or of the run's own training set."""
    anchor = recipe.objective.anchor
    if anchor.data is None:
        return data, train[: anchor.records]
    source = open_data(Path(anchor.data))
    if source.spec.images != data.spec.images:
        raise InputError(f"has {source.spec.images} image(s) a record, {data.folder} has {data.spec.images}",
                         where=anchor.data, hint="choose another objective.anchor.data")
    return source, source.records(anchor.split, limit=anchor.records)


def _labelled(record: Record, data: DataArtifact) -> bool:
    held = {"answers": record.answers, "tags": record.tags}
    return held.get(data.spec.target, record.label) is not None


def _trainable(records: list[Record], data: DataArtifact) -> tuple[list[Record], int]:
    """VQA questions with no answer in the vocabulary teach nothing and are left out of training (not of evaluation)."""
    if data.vocabulary is None:
        return records, 0
    kept = [record for record in records if record.answers is None or data.vocabulary.knows(record.answers)]
    if not kept:
        raise InputError("no training question has an answer in the vocabulary", where=str(data.folder),
                         hint="prepare again with a smaller --min-count")
    return kept, len(records) - len(kept)


def build_visual(
    recipe: Recipe, data: DataArtifact, records: Sequence[Record], spec: ModelSpec, *, augment: bool
) -> VisualInput:
    """How the student sees images, augmented as the recipe says; of `records`, or of too many to be kept."""
    image = recipe.image
    paths = (path for record in records for path in record.images)
    memory = recipe.data.memory if records else bool(recipe.data.memory)
    return visual_input(spec, data.images, paths=paths, augment=image.augment if augment else "none", shift=image.shift,
                        noise=image.noise, memory=memory, objects=data.objects if spec.image_network else None)


def build_student(recipe: Recipe, data: DataArtifact) -> tuple[Student, ModelSpec, WordTokenizer]:
    """The student of the recipe with its tokenizer, from `student.init` or from scratch."""
    student = recipe.student
    if student.kind in ONE_IMAGE and data.spec.images != 1:
        raise InputError(f"has {data.spec.images} images a record, a {student.kind} student sees one", where=str(data.folder),
                         hint="choose a vilt or dual_encoder student")
    if recipe.adversarial is not None and recipe.adversarial.image and data.spec.images != 1:
        raise InputError(f"has {data.spec.images} images a record, adversarial.image perturbs those of one",
                         where=str(data.folder), hint="set adversarial.image=false, as VILLA does on NLVR2")
    store = RegionStore(Path(recipe.regions.path)) if recipe.regions else None
    # Without labels a student has the heads of its tasks alone.
    pretraining = METHODS[recipe.objective.kind].heads(recipe)
    labels = data.labels if pretraining is None else []
    wanted = Wanted(student.kind, data.task, data.spec.images, labels, image_size=recipe.image.size,
                    max_length=recipe.text.max_length, dropout=student.dropout,
                    regions=str(Path(recipe.regions.path).resolve()) if store else None,
                    most_regions=recipe.regions.most if store else MOST_REGIONS, network=_image_network(student),
                    network_weights=student.image_network.weights, clip=_clip(recipe), pixels=_pixels(recipe),
                    pretraining=pretraining or ())
    if student.init is not None:
        return init_student(student.init, wanted, keep_head=student.keep_head)
    if student.kind == "clip_dual" and student.clip.model is not None:
        return new_from_clip(student.clip.model, student.clip.weights, wanted)
    sources = [open_data(Path(path)) for path in recipe.text.vocabulary_from] or [data]
    # Sorted and unique, so that the vocabulary does not depend on the order of the files.
    texts = sorted({part for source in sources for record in source.records(recipe.data.train if source is data else "train")
                    for sentence in sentences(record) for part in sentence}, key=lambda part: (tuple(part), text_of(part)))
    tokenizer = train_tokenizer(texts, recipe.text.vocabulary_size)
    region_size = store.width if store else wanted.network.features if wanted.network else 0
    sizes = Sizes(**student.sizes.model_dump(), region_size=region_size)
    return new_from_scratch(wanted, sizes, tokenizer)


def _heads(chosen: PretrainObjective) -> tuple[str, ...]:
    """The tasks that have one."""
    return tuple(task for task in chosen.tasks if task in HEADS)


def _clip(recipe: Recipe) -> Clip | None:
    if recipe.student.kind != "clip_vil":
        return None
    return Clip(**recipe.student.clip.model_dump(), long_side=recipe.image.long_side)


def _pixels(recipe: Recipe) -> Pixels | None:
    if recipe.student.kind != "pixelbert":
        return None
    return Pixels(**recipe.student.pixels.model_dump(), long_side=recipe.image.long_side)


def _image_network(student: StudentSection) -> ImageNetwork | None:
    own = {"regions": False, "end_to_end": True}[student.visual]
    return ImageNetwork.from_dict(student.image_network.model_dump(exclude={"weights"})) if own else None


def build_objective(chosen: LabelsObjective | DideObjective, data: DataArtifact, student: Student) -> Objective:
    """The objective's module, by kind; the task loss is the student's own, VQA's the recipe's."""
    target = data.spec.target
    loss = f"answer_{chosen.answer_loss}" if target == "answers" else student.losses.get(target, target)
    return TASKS[chosen.kind](chosen, loss, student.layers)


def _dide(chosen: DideObjective, loss: str, depth: int) -> DiDE:
    return DiDE(loss=loss, depth=depth, **chosen.model_dump(exclude={"kind", "answer_loss"}))


TASKS: dict[str, Callable[[Any, str, int], Objective]] = {"labels": lambda chosen, loss, depth: HardLabels(loss), "dide": _dide}
"""Objectives on a task's labels, from a recipe's section, the name of the task's loss and the student's number of layers."""


def build_teacher(
    recipe: Recipe, chosen: DideObjective | PretrainObjective | RetrievalObjective, parts: Parts
) -> FusionTeacher:
    """The recipe's fusion teacher. Raises InputError where it cannot share the student's batches: another tokenizer, patch or
    image size; or, for attention and hidden states, another number of layers or heads; or where its answers come from
    another kind of loss than the objective reads them by."""
    data, spec = parts.data, parts.spec
    unlabelled = not isinstance(chosen, DideObjective)
    heads = _heads(chosen) if unlabelled and chosen.soft_labels else ()
    teacher = build_fusion_teacher(recipe.teacher.kind, recipe.teacher.model, labels=[] if unlabelled else data.labels,
                                   images=data.spec.images, pretraining=heads)
    if teacher.tokenizer.vocabulary != parts.tokenizer.vocabulary:
        raise InputError("teacher and student have different tokenizers", where=recipe.teacher.model,
                         hint="start the student from the encoder that the teacher was fine-tuned from")
    own, other = spec.encoder, teacher.spec.encoder
    pairs = {name: (value, other.sight().get(name)) for name, value in own.sight().items()}
    pairs["image.size"] = (spec.image_size, teacher.spec.image_size)
    if chosen.attention != "none" or chosen.hidden_states:
        pairs |= {"layers": (own.num_hidden_layers, other.num_hidden_layers)}
    if chosen.attention != "none":
        pairs |= {"heads": (own.num_attention_heads, other.num_attention_heads)}
    if chosen.hidden_states:
        pairs |= {"width": (own.hidden_size, other.hidden_size)}
    for name, (mine, theirs) in pairs.items():
        if mine != theirs:
            raise InputError(f"teacher and student differ in {name}: {theirs} and {mine}", where=recipe.teacher.model,
                             hint="they must agree to share image patches and attention maps")
    learned, read = teacher.spec.answer_loss, None if unlabelled else chosen.answer_loss
    if not unlabelled and data.spec.target == "answers" and chosen.soft_labels and learned not in (None, read):
        raise InputError(f"the teacher's answers were trained with {learned}, objective.answer_loss is {read}",
                         where=recipe.teacher.model, hint=f"set objective.answer_loss={learned}")
    if spec.max_length > other.max_position_embeddings:
        raise InputError(f"the teacher reads {other.max_position_embeddings} tokens, text.max_length is {spec.max_length}",
                         where=recipe.teacher.model, hint=f"set text.max_length={other.max_position_embeddings}")
    return teacher


@dataclass(frozen=True)
class Method:
    """How a kind of objective is built. labelled: whether its records need labels. check_data: raises InputError where the data
    lacks what it needs. heads: of the student's own tasks, None for those of the labels. build: puts objective, teachers and data
    of its own into the parts."""

    labelled: bool
    check_data: Callable[[Any, DataArtifact], None]
    heads: Callable[[Recipe], tuple[str, ...] | None]
    build: Callable[[Parts, Recipe, MakeDataset, Say | None], None]


METHODS = {
    "labels": Method(True, _check_labels, lambda recipe: None, _add_task),
    "dide": Method(True, _check_labels, lambda recipe: None, _add_task),
    "advl": Method(True, _check_labels, lambda recipe: None, _add_advl),
    "pretrain": Method(False, _check_pretraining, lambda recipe: _heads(recipe.objective), _add_pretraining),
    "retrieval": Method(False, lambda chosen, data: check_captions(data), lambda recipe: retrieval_heads(recipe.student.kind),
                        _add_retrieval),
}
"""Every kind of a recipe's `objective`. A kind that is not here is an error, and never trains on labels instead."""
