"""VQA v2 in its official raw layout: question and annotation files, COCO images by number.

Answers stay as the annotators wrote them; the vocabulary is built from the majority answers of train, then val. The option
`vqa_split` chooses between the official splits and ViLT's: trained on val too, but for 1,000 images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.records import Record
from vldistill.data.sources.rows import Row, SeenIds, nearest, read_document
from vldistill.data.sources.table import Answers, Flag, Source, SourceData, ToyLayout, wrong_layout
from vldistill.data.wording import split_words
from vldistill.errors import InputError, Problems

ANNOTATORS = 10
VQA_SPLITS = ("official", "trainval")
_PARTS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
# test-dev is a part of test.
_IMAGES = _PARTS | {"test-dev": "test2015"}
_LABELLED = ("train", "val")
_HELD_OUT = 1000


@dataclass(frozen=True)
class Vqa(Answers):
    """vqa_split: "official", or "trainval", which trains on val too but for 1,000 images."""

    vqa_split: Annotated[str, Flag("--vqa-split", "HOW", "official, or trainval: val, too.")] = "official"

    def check(self) -> None:
        super().check()
        if self.vqa_split not in VQA_SPLITS:
            raise InputError(f"vqa_split {self.vqa_split!r} is not known", hint=nearest(self.vqa_split, VQA_SPLITS))


def questions_file(split: str) -> str:
    """Name of a split's question file."""
    return f"v2_OpenEnded_mscoco_{_PARTS[split]}_questions.json"


def annotations_file(split: str) -> str:
    """Name of a split's annotation file (train and val)."""
    return f"v2_mscoco_{_PARTS[split]}_annotations.json"


def image_path(split: str, image_id: int) -> str:
    """An image's path relative to the raw root."""
    return f"{_IMAGES[split]}/COCO_{_IMAGES[split]}_{image_id:012d}.jpg"


def read(root: Path, options: Vqa, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there. Raises InputError where neither train nor val is, or `vqa_split` is
    "trainval" and one of the two is missing; faults go to `problems`."""
    majority: list[str] = []
    present = [
        s for s in _PARTS if (root / questions_file(s)).exists() or (s in _LABELLED and (root / annotations_file(s)).exists())
    ]
    if not set(_LABELLED) & set(present):
        raise wrong_layout(root, "VQA v2", [f"{questions_file(s)} with {annotations_file(s)}" for s in _LABELLED])
    missing = [questions_file(s) for s in _LABELLED if s not in present]
    if options.vqa_split == "trainval" and missing:
        raise InputError(
            f"vqa_split trainval needs train and val: {missing[0]} is missing",
            where=str(root),
            hint="put it there, or leave vqa_split out",
        )
    # The vocabulary is always train's and val's, so that a part of the data has the same classes as the whole.
    annotations = {
        split: _read_annotations(root / annotations_file(split), majority, problems) for split in present if split in _LABELLED
    }
    data.vocabulary = AnswerVocabulary.build(majority, options.min_answer_count)
    if options.vqa_split == "trainval":
        _read_trainval(root, annotations, options, data, problems)
        present = [split for split in present if split not in _LABELLED]
    for split in present:
        if options.wants(split):
            _read_questions(root / questions_file(split), split, annotations.pop(split, None), data.add, problems)
    if majority and not problems and not len(data.vocabulary):
        problems.add(
            f"no answer occurs {options.min_answer_count} times in {len(majority):,} questions",
            where=str(root),
            hint="lower --min-count",
        )


@dataclass(slots=True)
class _Annotation:
    where: str
    image: int
    answers: list[str]
    question_type: str | None
    answer_type: str | None


# By question_id, None for a faulty one; None in all where the file cannot be read.
_Annotations = dict[int, _Annotation | None] | None


def _read_annotations(path: Path, majority: list[str], problems: Problems) -> _Annotations:
    """The annotations of a file; appends their majority answers."""
    rows = read_document(path, "annotations", problems)
    if not rows:
        return None
    annotations: dict[int, _Annotation | None] = {}
    seen = SeenIds()
    for row in rows:
        number = row.integer("question_id")
        if number is None:
            continue
        row.where = f"{path}#{number}"
        seen.add(number, row, "question_id")
        image, answers = row.integer("image_id"), _answers(row)
        answer = row.name("multiple_choice_answer", blank=True)
        question_type, answer_type = row.text("question_type", optional=True), row.text("answer_type", optional=True)
        if row.good:
            annotations[number] = _Annotation(row.where, image, answers, question_type, answer_type)
            majority.append(answer)
        else:
            annotations.setdefault(number, None)
    return annotations


def _answers(row: Row) -> list[str] | None:
    entries = row.items("answers")
    if entries is None:
        return None
    if len(entries) != ANNOTATORS:
        return row.fault(
            f"`answers` has {len(entries)} entries", f"VQA has {ANNOTATORS} a question; the accuracy is defined on them"
        )
    answers = [entry.get("answer") if isinstance(entry, dict) else None for entry in entries]
    answers = [str(answer) if type(answer) is int else answer for answer in answers]
    # Millions of entries: the ten are judged together, and one by one only to say what is wrong.
    if all(type(answer) is str for answer in answers) and "".join(answers).isascii():
        return answers
    for entry in entries:
        if not isinstance(entry, dict):
            return row.fault("`answers` must hold objects with an `answer`", "mend the entry")
        inner = Row(entry, row.where, row.problems)
        inner.name("answer", blank=True)
        row.good = row.good and inner.good
    return answers


def _read_trainval(root: Path, annotations: dict[str, _Annotations], options: Vqa, data: SourceData, problems: Problems) -> None:
    """Reads train and val so that train has the questions of all images but the ones held out, which are val."""
    seen = SeenIds()
    if options.wants("train"):
        _read_questions(root / questions_file("train"), "train", annotations["train"], data.add, problems, seen)
    images = {annotation.image for annotation in (annotations["val"] or {}).values() if annotation}
    held_out = _held_out(images)
    counts: Counter[str] = Counter()

    def add(_: str, record: Record, where: str) -> None:
        split = "val" if record.meta["image_id"] in held_out else "train"
        counts[split] += 1
        if options.wants(split):
            data.add(split, record, where)

    _read_questions(root / questions_file("val"), "val", annotations["val"], add, problems, seen)
    moved = len(images) - len(held_out)
    note = (
        f"trainval: {moved:,} images of val with {counts['train']:,} questions are train; "
        f"{len(held_out):,} with {counts['val']:,} questions stay val"
    )
    few = f" (half of them: there are fewer than {2 * _HELD_OUT:,})" if len(images) < 2 * _HELD_OUT else ""
    data.notes.append(note + few)


def _held_out(images: set[int]) -> set[int]:
    """The images that stay val, 1,000 or half of them: the same whatever else is there, and in whatever order."""
    # ViLT takes the last 1,000 rows of a file that its converter writes in random order.
    count = _HELD_OUT if len(images) >= 2 * _HELD_OUT else (len(images) + 1) // 2
    return set(sorted(images, key=_rank)[:count])


def _rank(image: int) -> tuple[bytes, int]:
    return blake2b(b"%d" % image, digest_size=16, key=b"vqa trainval, seed 0").digest(), image


def _read_questions(
    path: Path,
    split: str,
    annotations: _Annotations,
    add: Callable[[str, Record, str], None],
    problems: Problems,
    seen: SeenIds | None = None,
) -> None:
    """Calls `add(split, record, where)` for each good question. seen: the questions of the files read before into one split."""
    seen = SeenIds() if seen is None else seen
    for row in read_document(path, "questions", problems):
        number = row.integer("question_id")
        if number is None:
            continue
        row.where = f"{path}#{number}"
        seen.add(number, row, "question_id")
        image, question = row.integer("image_id"), row.text("question")
        known = annotations.get(number) if annotations else None
        if annotations and number not in annotations:
            row.fault("the question has no annotation", f"add it to {annotations_file(split)}, or drop the question")
        if known and image is not None and known.image != image:
            row.fault(f"image_id is {image}, the annotation has {known.image}", "mend one of them")
        if not row.good or (split in _LABELLED and known is None):
            continue
        meta = {"image_id": image}
        if known and known.question_type is not None:
            meta["question_type"] = known.question_type
        record = Record(
            id=str(number),
            task="vqa",
            images=[image_path(split, image)],
            text=split_words(question),
            written=question,
            answers=known.answers if known else None,
            type=known.answer_type if known else None,
            meta=meta,
        )
        add(split, record, row.where)
    if seen.first and annotations:
        for number, annotation in annotations.items():
            if annotation and number not in seen.first:
                problems.add(
                    "the annotation has no question", where=annotation.where, hint=f"add the question to {path.name}, or drop it"
                )


VQA = Source(
    about="VQA v2: questions about photographs, ten answers each",
    layout="v2_*_questions.json, v2_*_annotations.json, train2014/, val2014/, test2015/",
    read=read,
    task="vqa",
    toy=ToyLayout("layouts:write_vqa", {"train": 6000, "val": 1000}, group=2),
    options=Vqa,
    variants=True,
)
