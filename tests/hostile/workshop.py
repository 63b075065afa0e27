"""One small world with everything that a command reads, and a table of all commands that write, with what each needs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tarfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_worlds import pictures, raw_data
from official_checkpoints import OFFICIAL
from PIL import Image
from quickstart_runs import write_advl, write_dide
from tiny_oscar import write_features
from tiny_teachers import write_bert, write_clip, write_vit

from vldistill import artifacts
from vldistill.data.toy.layouts import DATASETS
from vldistill.training.guard import Guard

SIZES = "sizes: {layers: 2, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}"
COMMON = """
data: {{path: {data}}}
text: {{max_length: 16, vocabulary_size: 120}}
optim: {{lr: 1e-3}}
train: {{steps: 4, batch: {{pairs: 4}}, eval_pairs: 4, log_every: 1, validate_every: 2, checkpoint_every: 1}}
"""
RECIPES = {
    "fusion": COMMON.format(data="data/mine") + f"image: {{size: 36}}\nstudent: {{kind: vilt, {SIZES}}}\n"
    "objective: {kind: labels}\n",
    "dual": COMMON.format(data="data/mine") + f"image: {{size: 36}}\nstudent: {{kind: dual_encoder, {SIZES}}}\n"
    "teacher: {kind: vilt, model: runs/fusion/a/seed0}\nobjective: {kind: dide, attention: none}\n",
    "advl": COMMON.format(data="data/mine") + f"image: {{size: 36}}\nstudent: {{kind: vilt, {SIZES}}}\n"
    "teachers:\n  vision: {kind: timm, model: teachers/vit}\n  text: {kind: transformers, model: teachers/bert}\n"
    "  relevance: {kind: open_clip, model: teachers/clip, weights: random}\n"
    "objective: {kind: advl, answer_loss: softmax, words: 1, itm_fraction: 0}\n",
    "captions": COMMON.format(data="data/toy-coco") + f"image: {{size: 36}}\nstudent: {{kind: dual_encoder, {SIZES}}}\n"
    "objective: {kind: retrieval}\n",
    "words": COMMON.format(data="data/toy-coco") + f"image: {{size: 36}}\nstudent: {{kind: vilt, {SIZES}}}\n"
    "objective: {kind: pretrain}\n",
    "oscar": COMMON.format(data="data/toy-nlvr2") + "regions: {path: regions, most: 3}\nstudent: {kind: oscar, "
    "sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}, dropout: 0.0}\nobjective: {kind: labels}\n",
}
RUNS = {
    "fusion": "finetune",
    "dual": "distill",
    "advl": "distill",
    "captions": "finetune",
    "words": "pretrain",
    "oscar": "finetune",
}
"""The recipes that are run, and by which stage."""


def run_of(recipe: str) -> str:
    return f"runs/{recipe}/a/seed0"


def new_workshop(folder: Path, well: Callable[..., object]) -> Path:
    """The same folder, filled; see `make_workshop`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_workshop(folder, well)
    return folder


def make_workshop(folder: Path, well: Callable[..., object]) -> None:
    """Fills `folder`, the working folder. well: runs a command that must succeed."""
    well("prepare", "toy", "--scale", "0.003", "--out", "data", "--raw", "raw")
    raw_data(folder / "raw/mine", 12, 4)
    well("prepare", "jsonl", "--raw", "raw/mine", "--out", "data/mine", "--min-count", "1")
    well("prepare", "jsonl", "--raw", "raw/mine", "--out", "data/packed", "--min-count", "1", "--shards", "2")
    write_nlvr(folder / "raw/nlvr")
    with tarfile.open("raw/mine.tar.gz", "w:gz") as archive:
        for path in sorted(Path("raw/mine").iterdir()):
            archive.add(path, path.name)
    write_vit(folder / "teachers/vit")
    write_bert(folder / "teachers/bert")
    write_clip(folder / "teachers/clip")
    write_region_features(folder / "raw/toy", folder / "features")
    well("prepare", "regions", "import", "--raw", "features", "--out", "regions", "--boxes", "1,100")
    for kind, write in OFFICIAL.items():
        (folder / "official" / kind).mkdir(parents=True)
        words = write(folder / "official" / kind)
        (folder / "official" / f"{kind}.json").write_text(json.dumps([str(word) for word in words]))
    for name, text in RECIPES.items():
        Path(f"{name}.yaml").write_text(text)
        well(RUNS[name], "--recipe", f"{name}.yaml", "--name", "a", "cache.path=cache")
    well("finetune", "--recipe", "fusion.yaml", "--name", "b", "train.seed=1")
    pictures(folder / "photos", 12)
    well("index", "build", run_of("dual"), "data/mine", "--out", "index")
    well("index", "build", run_of("captions"), "photos", "--out", "found")
    for run in (run_of("fusion"), "runs/fusion/b/seed1"):
        well("evaluate", run)
    well("analyze", run_of("fusion"), "--modality")
    file, *options = json.loads(Path("official/vilt.json").read_text())
    well("convert", "vilt", file, "converted", *options)
    write_advl(folder / "quick", 0.5, 0.6, 0.02)
    write_dide(folder / "quick")
    Path("grid.txt").write_text("prepare toy\ndistill --recipe advl.yaml --name a\n")
    Path("pairs.jsonl").write_text(
        "".join(
            json.dumps({"id": f"p{number}", "image": f"photos/{number}.png", "text": "is there a red square ?"}) + "\n"
            for number in range(12)
        )
    )


def make_unfinished(command: Callable[..., object]) -> Path:
    """A run that died after its third step of four, with checkpoints of steps 2 and 3, and its best model of step 2."""
    ask = Guard.ask

    def dies(self, step):
        if step == 4:
            raise RuntimeError("died")
        return ask(self, step)

    Guard.ask = dies
    try:
        command("finetune", "--recipe", "fusion.yaml", "--name", "left")
    except RuntimeError:
        pass
    finally:
        Guard.ask = ask
    return Path("runs/fusion/left/seed0")


def write_nlvr(folder: Path) -> None:
    rows = [
        {
            "sentence": f"There is box {number}.",
            "identifier": f"{number}-0",
            "directory": str(number % 2),
            "label": ["true", "false"][number % 2],
        }
        for number in range(4)
    ]
    for row in rows:
        for k in range(6):
            place = folder / "dev/images" / row["directory"] / f"dev-{row['identifier']}-{k}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (40 * k, 0, 0)).save(place)
    (folder / "dev/dev.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_region_features(images: Path, folder: Path) -> None:
    """See `write_features`, for NLVR2's images."""
    place = folder.parent / "to-regions/artifacts/raw/toy"
    place.parent.mkdir(parents=True)
    shutil.copytree(images / "nlvr2", place)
    write_features(place.parents[2], folder)
    shutil.rmtree(folder.parent / "to-regions")


@dataclass(frozen=True)
class Writer:
    """A command that writes below `out`. grows: what is finished stays, and the next call goes on from there. overwrites: it has
    --overwrite. timed: what it writes holds times, or its own place. slow: it takes seconds, so that the ordinary suite leaves
    it out."""

    words: str
    timed: bool = False
    grows: bool = False
    overwrites: bool = False
    slow: bool = False

    def command(self, out: Path, *more: str) -> list[str]:
        return [*(word.format(out=out) for word in self.words.split()), *more]


def _prepare(name: str, more: str = "") -> Writer:
    raw = f"raw/{name}" if name in ("mine", "nlvr") else f"raw/toy/{name}"
    source = "jsonl" if name == "mine" else name.replace("_", "-")
    count = "--min-count 1" if source in ("jsonl", "vqa") else ""
    return Writer(f"prepare {source} --raw {raw} --out {{out}}/data {count} {more}", overwrites=True)


WRITERS: dict[str, Writer] = {
    **{f"prepare {name if name != 'mine' else 'jsonl'}": _prepare(name) for name in ("mine", "nlvr", *DATASETS)},
    "prepare --shards": _prepare("mine", "--shards 2"),
    "prepare --unpack": Writer(
        "prepare jsonl --raw raw/mine.tar.gz --unpack {out}/raw --out {out}/data --min-count 1", timed=True, grows=True
    ),
    "prepare variants": _prepare("snli_ve", "--lowshot 1 --statements"),
    "prepare toy": Writer("prepare toy --scale 0.003 --datasets vqa --out {out}/data --raw {out}/raw", timed=True, grows=True),
    "prepare regions import": Writer("prepare regions import --raw features --boxes 1,100 --out {out}/regions", overwrites=True),
    "prepare regions compute": Writer(
        "prepare regions compute --data data/mine --weights random --grid 2 --out {out}/regions",
        timed=True,
        overwrites=True,
        slow=True,
    ),
    "cache": Writer("cache --recipe advl.yaml cache.path={out}/cache", grows=True),
    "finetune": Writer("finetune --recipe fusion.yaml --name a --resume auto --runs {out}/runs", grows=True),
    "distill": Writer(
        "distill --recipe advl.yaml --name a --resume auto --runs {out}/runs cache.path={out}/cache", timed=True, grows=True
    ),
    "pretrain": Writer("pretrain --recipe words.yaml --name a --resume auto --runs {out}/runs", grows=True),
    "evaluate": Writer(f"evaluate {run_of('fusion')} --out {{out}}/eval", timed=True),
    "evaluate captions": Writer(f"evaluate {run_of('captions')} --split val --out {{out}}/eval", timed=True),
    "evaluate --leaderboard": Writer(
        f"evaluate {run_of('oscar')} --split test --leaderboard {{out}}/nlvr2/answers.csv --out {{out}}/eval",
        timed=True,
        grows=True,
    ),
    "predict": Writer(f"predict {run_of('fusion')} --pairs pairs.jsonl --out {{out}}/answers.jsonl"),
    "compare": Writer(f"compare {run_of('fusion')} runs/fusion/b/seed1 --out {{out}}/against.json"),
    "bench": Writer(
        f"bench {run_of('dual')} --index index --batch 2 --rounds 1 --rows speed --out {{out}}/bench.json", timed=True, slow=True
    ),
    "analyze --words": Writer(f"analyze {run_of('advl')} --words --out {{out}}/figures/words.html", overwrites=True),
    "analyze --tokens": Writer(f"analyze {run_of('fusion')} --tokens --out {{out}}/figures/tokens.html", overwrites=True),
    "analyze --attention": Writer(
        f"analyze {run_of('fusion')} --attention --out {{out}}/figures/attention.html", overwrites=True, slow=True
    ),
    "analyze --modality": Writer(
        f"analyze {run_of('fusion')} --modality --out {{out}}/figures/modality.png", overwrites=True, slow=True
    ),
    "report": Writer("report runs --out {out}/report", timed=True, overwrites=True, slow=True),
    **{f"convert {kind}": Writer(f"convert {kind} {{out}}/model", overwrites=True) for kind in OFFICIAL},
    "index build": Writer(f"index build {run_of('dual')} photos --out {{out}}/index", overwrites=True),
    "index query .jsonl": Writer("index query found a --out {out}/found.jsonl", overwrites=True),
    "index query .html": Writer("index query found a --out {out}/found.html", overwrites=True),
    "recipe cp": Writer("recipe cp quickstart_dide {out}/mine.yaml"),
    "reproduce grid": Writer("reproduce grid grid.txt {out}/lines"),
    "reproduce quickstart advl": Writer("reproduce quickstart advl quick --out {out}/table.png"),
    "reproduce quickstart dide": Writer("reproduce quickstart dide quick --out {out}/table.png"),
}
"""Every command that writes files, in each of the ways in which it does."""
READ_ONLY = {
    "prepare list",
    "recipe ls",
    "recipe fields",
    "recipe show",
    "recipe check",
    "doctor",
    "reproduce advl",
    "reproduce dide",
}
"""The last two write what the commands write that they run."""


def command_of(name: str, out: Path, *more: str) -> list[str]:
    """The words of a row of WRITERS."""
    words = WRITERS[name].command(out, *more)
    if words[0] == "convert":
        file, *options = json.loads(Path(f"official/{words[1]}.json").read_text())
        words = [*words[:2], file, *words[2:], *options]
    return words


def folder_bytes(folder: Path) -> np.ndarray:
    """Sizes of all files below, ascending."""
    return np.sort([path.stat().st_size for path in folder.rglob("*") if path.is_file()])


def in_child(command, words: list[str], limit: int | None = None) -> SimpleNamespace:
    """The command in a process of its own, which no library can take this one down with."""
    receive, send = os.pipe()
    number = os.fork()
    if not number:
        try:
            os.close(receive)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            artifacts._digest_of.cache_clear()  # what this process has read before
            try:
                told = vars(command(*words))
            except Exception:  # what the command line lets through
                told = {"code": 99, "out": "", "err": traceback.format_exc()}
            with os.fdopen(send, "w") as file:
                json.dump(told, file)
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as file:
        told = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    assert status == 0 and told, f"{words}: ended by signal {-status}"
    return SimpleNamespace(**json.loads(told))
