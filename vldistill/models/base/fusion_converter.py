"""What the official checkpoints of ViLT, METER and OSCAR have in common: one encoder and the heads of what it was trained on,
which are pre-training (`mlm_score`, `itm_score`), retrieval (`rank_output`, beside `itm_score`), or a task with a classifier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.answers import ANSWERS_FILE
from vldistill.data.records import read_json
from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError
from vldistill.models.base.account import Account
from vldistill.models.base.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.base.fusion import Fusion

HEADS = (
    (r"^(?:vqa|nlvr2|ve|snli)_classifier\.", "classifier."),
    # Where the library has it.
    (r"^mlm_score\.bias$", "mlm_score.decoder.bias"),
)
"""How heads are renamed: pattern and replacement."""
_DENSE = ("weight", "bias")
_OTHER_HEADS = {
    "mlm_score.": [f"{part}.{kind}" for part in ("transform.dense", "transform.LayerNorm", "decoder") for kind in _DENSE],
    "itm_score.fc.": _DENSE,
    "rank_output.": _DENSE,
}


@dataclass(frozen=True)
class OfficialTask:
    """base: of a classifier. images: of a record. labels: in the order of its classes; None where the file alone cannot say."""

    task: str
    images: int
    labels: tuple[str, ...] | None


def task_of(official: dict[str, Tensor], tasks: dict[str, OfficialTask]) -> OfficialTask:
    """tasks: by what their classifiers are called."""
    matching = (task for prefix, task in tasks.items() if any(name.startswith(prefix) for name in official))
    return next(matching, OfficialTask("", 1, ()))


def read_answers(path: Path) -> list[str]:
    """Names of a VQA head's classes, in order: from a prepared artifact (its folder or its answers.json), a published model's
    config.json (`id2label`), a table by number (ViLT's vqa_dict.json) or of numbers, or a JSON list. Raises InputError where it
    is none of them."""
    content = read_json(path / ANSWERS_FILE if path.is_dir() else path)
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = _numbered(content["id2label"], path)
    elif isinstance(content, dict) and isinstance(content.get("answers"), list):
        content = content["answers"]
    elif isinstance(content, dict) and content and all(key.isascii() and key.isdigit() for key in content):
        content = _numbered(content, path)
    elif isinstance(content, dict) and content and all(type(number) is int for number in content.values()):
        content = _numbered({str(number): name for name, number in content.items()}, path)
    if isinstance(content, list) and None in content:
        raise InputError(f"has no answer {content.index(None)} of 0 to {len(content) - 1}", where=str(path), hint=_WHOLE)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content) or len(set(content)) != len(content):
        raise InputError(
            "does not name each answer once",
            where=str(path),
            hint="a prepared artifact's answers.json, a config.json with id2label, ViLT's vqa_dict.json, or a JSON "
            "list is expected",
        )
    return content


_WHOLE = "fetch the file again: all answers of the checkpoint are expected, in its order"


def _numbered(answers: dict[str, object], path: Path) -> list[object]:
    """Answers by their numbers, as a list. Raises InputError naming the first that is missing."""
    missing = [number for number in range(len(answers)) if str(number) not in answers]
    if missing:
        more = f" and {len(missing) - 1:,} more" if missing[1:] else ""
        raise InputError(f"has {len(answers):,} answers, but none of number {missing[0]}{more}", where=str(path), hint=_WHOLE)
    return [answers[str(number)] for number in range(len(answers))]


def task_labels(task: OfficialTask, weights: dict[str, Tensor], answers: Path | None, source: Path) -> list[str]:
    """The names of the head's classes. answers: see `read_answers`; of a VQA head, and only of one."""
    if task.task != "vqa":
        if answers is not None:
            raise InputError("has no VQA head, so --answers means nothing", where=str(source), hint="leave it out")
        return list(task.labels)
    if answers is None:
        raise InputError(
            "does not hold the names of its answers",
            where=str(source),
            hint="give --answers: the answers.json of `vldistill prepare vqa`, or a published model's config.json",
        )
    last = max((name for name in weights if re.fullmatch(r"classifier\.\d\.bias", name)), default="")
    names, classes = read_answers(answers), len(weights.get(last, ()))
    if len(names) != classes:
        raise InputError(
            f"has {len(names):,} answers, the checkpoint has {classes:,}",
            where=str(answers),
            hint="give the answers that it was trained with, in its order",
        )
    return names


def write_fusion(
    kind: type[Fusion],
    spec: ModelSpec,
    weights: dict[str, Tensor],
    tokenizer: WordTokenizer,
    source: Path,
    out: Path,
    *,
    account: Account,
    overwrite: bool,
) -> None:
    """Writes the model folder. Raises InputError where a key has no place or is missing; heads other than the task's are kept as
    they are. account: what became of each weight of the file."""
    heads = {f"{prefix}{part}" for prefix, parts in _OTHER_HEADS.items() for part in parts}
    model = kind(spec.encoder, images=spec.images, classes=spec.classes)
    load_strict(model, {name: value for name, value in weights.items() if name not in heads}, str(source))
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, {name: value.float() for name, value in weights.items()})
        write_converted(folder, source, **account.to_manifest())
