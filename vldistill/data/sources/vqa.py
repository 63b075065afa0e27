"""VQA v2 in its official raw layout: question and annotation files, COCO images by number.

Answers stay as the annotators wrote them; the vocabulary is built from the majority answers of train, then val.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.records import Record, split_words
from vldistill.data.sources.base import Row, Seen, SourceData, SourceOptions, read_document, wrong_layout
from vldistill.errors import Problems

ANNOTATORS = 10
_PARTS = {"train": "train2014", "val": "val2014", "test": "test2015"}


def questions_file(split: str) -> str:
    """Name of a split's question file."""
    return f"v2_OpenEnded_mscoco_{_PARTS[split]}_questions.json"


def annotations_file(split: str) -> str:
    """Name of a split's annotation file (train and val)."""
    return f"v2_mscoco_{_PARTS[split]}_annotations.json"


def image_path(split: str, image_id: int) -> str:
    """An image's path relative to the raw root."""
    return f"{_PARTS[split]}/COCO_{_PARTS[split]}_{image_id:012d}.jpg"


def read(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there. Raises InputError where neither train nor val is; faults go to `problems`."""
    data.task = "vqa"
    majority: list[str] = []
    present = [
        s
        for s in _PARTS
        if (root / questions_file(s)).exists() or (s != "test" and (root / annotations_file(s)).exists())
    ]
    if not {"train", "val"} & set(present):
        raise wrong_layout(
            root, "VQA v2", [f"{questions_file(s)} with {annotations_file(s)}" for s in ("train", "val")]
        )
    # The vocabulary is always train's and val's, so that a part of the data has the same classes as the whole.
    annotations = {
        split: _read_annotations(root / annotations_file(split), majority, problems) for split in present if split != "test"
    }
    data.vocabulary = AnswerVocabulary.build(majority, options.min_answer_count)
    for split in present:
        if options.wants(split):
            _read_questions(root / questions_file(split), split, annotations.pop(split, None), data, problems)
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


def _read_annotations(path: Path, majority: list[str], problems: Problems) -> dict[int, _Annotation | None] | None:
    """By question_id, None for a faulty one; None in all where the file cannot be read. Appends majority answers."""
    rows = read_document(path, "annotations", problems)
    if not rows:
        return None
    annotations: dict[int, _Annotation | None] = {}
    seen = Seen()
    for row in rows:
        number = row.integer("question_id")
        if number is None:
            continue
        row.where = f"{path}#{number}"
        seen.add(number, row, "question_id")
        image, answers = row.integer("image_id"), _answers(row)
        answer = row.text("multiple_choice_answer", blank=True)
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
    # Millions of entries: the ten are judged together, and one by one only to say what is wrong.
    if all(type(answer) is str for answer in answers) and "".join(answers).isascii():
        return answers
    for entry in entries:
        if not isinstance(entry, dict):
            return row.fault("`answers` must hold objects with an `answer`", "mend the entry")
        inner = Row(entry, row.where, row.problems)
        inner.text("answer", blank=True)
        row.good = row.good and inner.good
    return answers


def _read_questions(
    path: Path, split: str, annotations: dict[int, _Annotation | None] | None, data: SourceData, problems: Problems
) -> None:
    seen = Seen()
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
        if not row.good or (split != "test" and known is None):
            continue
        meta = {"image_id": image}
        if known and known.question_type is not None:
            meta["question_type"] = known.question_type
        record = Record(
            id=str(number),
            task="vqa",
            images=[image_path(split, image)],
            text=split_words(question),
            answers=known.answers if known else None,
            type=known.answer_type if known else None,
            meta=meta,
        )
        data.add(split, record, row.where)
    if seen.first and annotations:
        for number, annotation in annotations.items():
            if annotation and number not in seen.first:
                problems.add(
                    "the annotation has no question",
                    where=annotation.where,
                    hint=f"add the question to {path.name}, or drop it",
                )
