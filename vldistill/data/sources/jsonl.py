"""The user's own data: one JSON object a line with an image (or two), a text, and a label or answers.

    {"image": "images/1.jpg", "text": "two dogs run", "label": "yes"}
    {"images": ["a.jpg", "b.jpg"], "text": "both show a cat", "label": false}
    {"image": "1.jpg", "text": "How many dogs?", "answers": ["2", "two", "2"], "type": "number"}
    {"image": "1.jpg", "tags": ["dog", "grass"]}

The task follows from the lines: a label with one image (classification) or two (pair_classification), answers (vqa), tags
(tagging). Captions and text alone have no target, so that their task has to be named (caption, text).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vldistill.data.answers import AnswerVocabulary, majority_answer
from vldistill.data.records import TASKS, Record
from vldistill.data.sources.rows import Row, SeenIds, kind_of, nearest, quoted, read_rows
from vldistill.data.sources.table import SPLITS, Answers, Flag, Source, SourceData, wrong_layout
from vldistill.data.wording import split_words
from vldistill.errors import InputError, Problems

# The accuracy leaves one annotator out: a single answer has to stand for ten who agree, or none could be right.
_ANNOTATORS = 10
_ENOUGH_ANSWERS = 4
_KEYS = ("id", "image", "images", "text", "label", "answer", "answers", "tags", "type")
_TARGETS = {"label": "a label", "answers": "answers", "tags": "tags"}


@dataclass(frozen=True)
class Jsonl(Answers):
    """labels: the class names in order. task: one of TASKS. Both are found in the data where they are not given."""

    labels: Annotated[tuple[str, ...], Flag("--labels", "A,B", "Class names, in order.")] = ()
    task: Annotated[str | None, Flag("--task", "TASK", "caption, text, ..., where the lines do not say it.")] = None

    def check(self) -> None:
        super().check()
        if len(set(self.labels)) != len(self.labels):
            raise InputError("labels: a name appears twice", hint="name each once")
        if self.task is not None and self.task not in TASKS:
            raise InputError(f"task {self.task!r} is not known", hint=nearest(self.task, TASKS))


@dataclass(slots=True)
class _Line:
    row: Row
    id: str
    images: list[str]
    text: str | None
    label: str | None
    answers: list[str] | None
    tags: list[str] | None
    type: str | None

    @property
    def targets(self) -> list[str]:
        return [name for name in _TARGETS if getattr(self, name) is not None]

    @property
    def target(self) -> str:
        return next(iter(self.targets), "none")

    @property
    def named(self) -> list[str]:
        """The label names of the line."""
        return self.tags or ([] if self.label is None else [self.label])


def read(root: Path, options: Jsonl, problems: Problems, data: SourceData) -> None:
    """Reads `{train,val,test}.jsonl` of a folder, or one .jsonl file (as `test`, unless it is named as a split).

    Image paths are relative to the folder. Raises InputError where no such file is there;
    faults go to `problems`.
    """
    if root.is_dir():
        files = {split: root / f"{split}.jsonl" for split in SPLITS if (root / f"{split}.jsonl").exists()}
        if not files:
            raise wrong_layout(root, "JSONL data", [", ".join(f"{split}.jsonl" for split in SPLITS)])
    else:
        files = {root.stem if root.stem in SPLITS else "test": root}
    lines: dict[str, list[_Line]] = {}
    ignored: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    for split, path in files.items():
        lines[split] = _read_split(path, split, options.task, kinds, ignored, problems)
    data.task, data.root = _task(lines, options), root if root.is_dir() else root.parent
    if not root.is_dir() and root.stem not in SPLITS:
        data.notes.append(f"{root.name} is not named as a split: read as test")
    if ignored:
        data.notes.append("keys not read: " + ", ".join(f"{key} ({count:,} lines)" for key, count in ignored.most_common(8)))
    _check_shape(lines, data.task, problems)
    target = TASKS[data.task].target
    if target in ("label", "tags"):
        data.labels = _labels(lines, options, kinds, data)
    elif target == "answers":
        data.vocabulary = _vocabulary(lines, options, root, data, problems)
    for split in filter(options.wants, lines):
        for line in lines[split]:
            if line.row.good:
                _add(line, split, data)


def _read_split(
    path: Path, split: str, task: str | None, kinds: dict[str, str], ignored: Counter[str], problems: Problems
) -> list[_Line]:
    lines, seen = [], SeenIds()
    for row in read_rows(path, problems):
        ignored.update(row.values.keys() - set(_KEYS))
        number = row.where.rpartition(":")[2]
        given = row.name("id", optional=True)
        name = given if given is not None else f"{split}-{number}"
        alone = task == "text" and not row.values.keys() & {"image", "images"}
        tags = _tags(row)
        images, text = [] if alone else read_images(row), row.text("text", optional=tags is not None)
        label, answers, kind = _label(row, kinds), _answers(row), row.text("type", optional=True)
        line = _Line(row, name, images, text, label, answers, tags, kind)
        if len(line.targets) > 1:
            row.fault(f"has {' and '.join(_TARGETS[target] for target in line.targets)}", "keep one of them")
        seen.add(name, row)
        if row.good:
            lines.append(line)
    return lines


def _tags(row: Row) -> list[str] | None:
    """The tags; an image may have none of those that others have."""
    value = row.values.get("tags")
    return value if value is None or value == [] else row.names("tags")


def read_images(row: Row) -> list[str] | None:
    """The paths in `image` or `images` (1 or 2), or None after adding a problem."""
    if row.values.get("images") is None:
        image = row.text("image")
        return None if image is None else [image]
    if row.values.get("image") is not None:
        return row.fault("has `image` and `images`", "keep one of them")
    return row.texts("images", most=2)


def _label(row: Row, kinds: dict[str, str]) -> str | None:
    value = row.values.get("label")
    if value is None:
        return None
    if not isinstance(value, (str, bool, int)):
        return row.fault(f"`label` must be a text, a whole number or true/false, found {kind_of(value)}", "mend the line")
    # 1 and "1" side by side are nearly always a slip of the script that wrote the file.
    first = next(iter(kinds), kind_of(value))
    if first != kind_of(value):
        return row.fault(f"`label` is {kind_of(value)}, at {kinds[first]} it is {first}", "write all labels the same way")
    kinds.setdefault(first, row.where)
    if not isinstance(value, str):
        return str(value).lower()
    text = row.text("label")
    if text is not None and text != text.strip():
        return row.fault(f"`label` {quoted(text)} has spaces around it", "remove them")
    return text


def _answers(row: Row) -> list[str] | None:
    if row.values.get("answers") is None:
        answer = row.name("answer", optional=True)
        return None if answer is None else [answer] * _ANNOTATORS
    if row.values.get("answer") is not None:
        return row.fault("has `answer` and `answers`", "keep one of them")
    answers = row.names("answers")
    return answers * _ANNOTATORS if answers and len(answers) == 1 else answers


def _task(lines: dict[str, list[_Line]], options: Jsonl) -> str:
    if options.task is not None:
        return options.task
    flat = [line for split in lines.values() for line in split]
    target = next((line.target for line in flat if line.target != "none"), "none")
    if target in ("answers", "tags"):
        return "vqa" if target == "answers" else "tagging"
    return "pair_classification" if flat and len(flat[0].images) == 2 else "classification"


def _check_shape(lines: dict[str, list[_Line]], task: str, problems: Problems) -> None:
    """Every line has the task's number of images and its kind of target; only a whole test split may lack targets."""
    spec = TASKS[task]
    anywhere = any(line.target == spec.target for split in lines.values() for line in split)
    for split, members in lines.items():
        needed = anywhere and (split != "test" or any(line.target == spec.target for line in members))
        for line in members:
            if len(line.images) != spec.images:
                line.row.fault(
                    f"has {len(line.images)} image{'s' * (len(line.images) > 1)}, the task {task} has {spec.images or 'none'}",
                    "mend the line, or keep tasks in folders of their own",
                )
            if spec.text != (line.text is not None):
                line.row.fault(
                    f"has {'no' if spec.text else 'a'} text, the task {task} has {'one' if spec.text else 'none'}",
                    "mend the line, or keep tasks in folders of their own",
                )
            if line.target not in ("none", spec.target):
                line.row.fault(
                    f"has {_TARGETS[line.target]}, the task {task} has {'no target' if spec.target == 'none' else spec.target}",
                    "mend the line, or keep tasks in folders of their own",
                )
            elif spec.target != "none" and needed and line.target == "none":
                line.row.fault(f"has no {spec.target}, other lines have", "add it, or drop the line")


def _labels(lines: dict[str, list[_Line]], options: Jsonl, kinds: dict[str, str], data: SourceData) -> list[str] | None:
    given = [name for line in lines.get("train", []) for name in line.named]
    if options.labels:
        return list(options.labels)
    if not given:
        given = [name for split in lines.values() for line in split for name in line.named]
        if given:
            data.notes.append(
                "labels are taken from the splits that are there, since train has none: name them to fix their order"
            )
    if len(set(given)) == 1:
        data.notes.append(f"WARNING: {given[0]!r} is the only label: every model answers it, and the accuracy says nothing")
    whole = set(kinds) == {"a number"}
    return sorted(set(given), key=int if whole else None) or None


def _vocabulary(
    lines: dict[str, list[_Line]], options: Jsonl, root: Path, data: SourceData, problems: Problems
) -> AnswerVocabulary:
    pool = [line.answers for split in ("train", "val") for line in lines.get(split, []) if line.answers]
    if not pool:
        pool = [line.answers for line in lines.get("test", []) if line.answers]
        data.notes.append("the answer vocabulary is taken from test, since there is neither train nor val")
    few = sum(len(set(answers)) > 1 and len(answers) < _ENOUGH_ANSWERS for answers in pool)
    if few:
        data.notes.append(
            f"{few:,} questions have fewer than {_ENOUGH_ANSWERS} answers: the VQA accuracy cannot reach 100 % on them"
        )
    vocabulary = AnswerVocabulary.build(map(majority_answer, pool), options.min_answer_count)
    if pool and not problems and not len(vocabulary):
        problems.add(
            f"no answer occurs {options.min_answer_count} times in {len(pool):,} questions",
            where=str(root),
            hint="lower --min-count",
        )
    return vocabulary


def _add(line: _Line, split: str, data: SourceData) -> None:
    known = data.labels or []
    for name in line.named:
        if known and name not in known:
            return line.row.fault(f"label {quoted(name)} is not a label", nearest(name, known))
    places = [known.index(name) for name in line.named if known]
    data.add(
        split,
        Record(
            id=line.id,
            task=data.task,
            images=line.images,
            text=split_words(line.text or ""),
            written=line.text,
            label=places[0] if line.label is not None and places else None,
            answers=line.answers,
            type=line.type,
            tags=None if line.tags is None else sorted(set(places)),
        ),
        line.row.where,
    )


JSONL = Source(
    about="Your own data, one JSON object a line",
    layout="{train,val,test}.jsonl, or one file, of {image, text, label or answers}, {image, tags} or {text}",
    read=read,
    task=None,
    options=Jsonl,
    variants=True,
    one_file=True,
)
