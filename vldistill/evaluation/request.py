"""What `vldistill evaluate` is asked for, and what of it is refused before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vldistill.data.artifact import DataArtifact
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import BOTH, check_members, check_task, trained_part
from vldistill.evaluation.results import SUFFIX
from vldistill.models.base.checkpoint import read_spec, resolve_model
from vldistill.terminal import say

PARTS_OF_VCR = ("answers", "rationales", BOTH)


@dataclass(frozen=True)
class EvaluationRequest:
    """The options of the command, by their names there."""

    data: Path | None
    split: str
    batch: int
    workers: int
    out: Path | None
    limit: int | None
    precision: str
    index: Path | None
    ensemble: bool
    part: str | None
    domain_shift: bool
    leaderboard: Path | None
    allow_partial: bool
    dry_run: bool

    @property
    def splits(self) -> list[str]:
        return [self.split, *[self.split + SUFFIX] * self.domain_shift]

    def folder(self, split: str) -> Path | None:
        """The one that is asked for of a split, if one is."""
        return self.out / split if self.out is not None and self.domain_shift else self.out


def check_options(runs: list[str], asked: EvaluationRequest) -> None:
    """Raises InputError for options that do not go together."""
    if asked.ensemble and len({str(Path(source)) for source in runs}) < max(len(runs), 2):
        raise InputError("--ensemble averages two runs or more, each named once", hint="name another run")
    if asked.out is not None and len(runs) > 1 and not asked.ensemble:
        raise InputError("--out with several runs", hint="leave it out, so that each writes into its own folder")
    if asked.leaderboard is not None and len(runs) > 1 and not asked.ensemble:
        raise InputError("--leaderboard with several runs", hint="name one run, or average them with --ensemble")
    if asked.leaderboard is not None and asked.domain_shift:
        raise InputError("--leaderboard and --domain-shift", hint="give one of them; a shifted set has no leaderboard")


def whole_test(asked: EvaluationRequest, data: DataArtifact) -> EvaluationRequest:
    """VQA's server reads files of all test questions alone, and scores those of test-dev among them. Raises InputError where the
    artifact has not got them."""
    if asked.leaderboard is None or data.task != "vqa" or asked.split != "test-dev":
        return asked
    if "test" not in data.splits:
        raise InputError(
            "has no split `test`, and the server wants an answer to every test question",
            where=str(data.folder),
            hint="prepare the data with v2_OpenEnded_mscoco_test2015_questions.json",
        )
    say("note: the file has all questions of test, as the server wants it; the server scores test-dev among them")
    return replace(asked, split="test")


def check_captions(artifacts: dict[str, DataArtifact], asked: EvaluationRequest) -> None:
    """Raises InputError for what retrieval has not."""
    if asked.precision != "fp32":
        raise InputError("--precision is for tasks with answers; captions are ranked in fp32", hint="leave it out")
    for option, given in (
        ("--ensemble", asked.ensemble),
        ("--leaderboard", asked.leaderboard is not None),
        ("--domain-shift", asked.domain_shift),
    ):
        if given:
            raise InputError(f"{option} is for tasks with answers, not for captions", hint="leave it out")
    others = [source for source, data in artifacts.items() if data.task != "caption"]
    if others:
        raise InputError("answers questions, other runs rank captions", where=others[0], hint="evaluate them by themselves")


def check_models(artifacts: dict[str, DataArtifact], asked: EvaluationRequest) -> None:
    """All of them, before the first is loaded."""
    specs = {source: read_spec(resolve_model(source)) for source in artifacts}
    for source, data in artifacts.items():
        check_task(specs[source], data, source)
        if asked.domain_shift and asked.split + SUFFIX not in data.variants:
            raise InputError(
                f"has no {asked.split}{SUFFIX}",
                where=str(data.folder),
                hint="make it with: vldistill prepare "
                f"{data.manifest.get('dataset', data.task)} --domain-shift, and the --raw and --out of the artifact",
            )
    if asked.ensemble:
        (first, common), *others = artifacts.items()
        for source, data in others:
            if data.fingerprint != common.fingerprint:
                raise InputError(
                    f"was trained on {data.folder}, {first} on {common.folder}",
                    where=source,
                    hint="say on which data they are averaged, with --data",
                )
        check_members(specs)


def parts_of(artifacts: dict[str, DataArtifact], asked: EvaluationRequest) -> dict[str, str]:
    """Of VCR, the part that each run answers: what it was trained on, or what was asked for. Raises InputError where runs that
    are averaged differ in it, or a leaderboard wants answers that a run never learned to give."""
    if asked.part is not None and asked.part not in PARTS_OF_VCR:
        raise InputError(f"--part {asked.part}: no such part", hint=f"one of {', '.join(PARTS_OF_VCR)}")
    others = [source for source, data in artifacts.items() if data.task != "vcr"]
    if asked.part is not None and others:
        raise InputError(
            f"--part is for VCR, {artifacts[others[0]].folder} is of {artifacts[others[0]].task}",
            where=others[0],
            hint="leave it out",
        )
    own = {source: trained_part(source) for source in artifacts}
    parts = {source: asked.part or part for source, part in own.items()}
    if asked.ensemble and len(set(parts.values())) > 1:
        listing = ", ".join(f"{source} on {part}" for source, part in parts.items())
        raise InputError(
            f"the runs were trained on different parts of VCR: {listing}", hint="average runs of one part, or give --part"
        )
    lacking = [source for source, part in parts.items() if part != BOTH]
    if asked.leaderboard is not None and lacking:
        raise InputError(
            f"was trained on {parts[lacking[0]]} alone, and the leaderboard wants rationales and answers",
            where=lacking[0],
            hint="train it with data.part=both, or pass --part both to look at the format",
        )
    return parts
