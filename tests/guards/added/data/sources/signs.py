"""Road signs: whether a sentence is true of a sign, a line each of `signs.tsv`: image, sentence, yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vldistill.data.records import Record
from vldistill.data.sources.table import SourceData, wrong_layout
from vldistill.data.sources.table import Flag, Source, SourceOptions
from vldistill.data.wording import split_words
from vldistill.errors import LINE, Problems

LABELS = ["no", "yes"]


@dataclass(frozen=True)
class Signs(SourceOptions):
    """every: of how many lines one is held out as val."""

    every: Annotated[int, Flag("--every", "N", "Hold out every Nth line as val.", least=2)] = 4


def read(root: Path, options: Signs, problems: Problems, data: SourceData) -> None:
    """Raises InputError where `signs.tsv` is missing; faults go to `problems`."""
    data.labels = list(LABELS)
    path = root / "signs.tsv"
    if not path.is_file():
        raise wrong_layout(root, "road signs", [path.name])
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        image, sentence, answer = line.split("\t")
        if answer not in LABELS:
            problems.add(f"{answer!r} is not a label", where=f"{path}:{number}", hint="write yes or no", part=LINE)
            continue
        record = Record(
            id=str(number),
            task="classification",
            images=[image],
            text=split_words(sentence),
            written=sentence,
            label=LABELS.index(answer),
        )
        data.add("val" if number % options.every == 0 else "train", record, f"{path}:{number}")


SIGNS = Source(
    about="Road signs: whether a sentence is true of one", layout="signs.tsv", read=read, task="classification", options=Signs
)
