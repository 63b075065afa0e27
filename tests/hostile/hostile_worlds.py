"""One small whole artifact of each kind, and for each a function that reads all that is in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vldistill.artifacts import new_manifest, sealed, write_converted, write_manifest, write_text
from vldistill.data.artifact import open_data
from vldistill.data.image_files import ImageInfo
from vldistill.data.images import ImageFolder
from vldistill.data.prepare import prepare
from vldistill.data.regions.store import ImageRegions, RegionStore, RegionWriter
from vldistill.data.text import train_tokenizer
from vldistill.evaluation.image_index import ImageIndex, IndexSource, build_index
from vldistill.evaluation.report.runs import read_runs
from vldistill.evaluation.results import check_same, comparison, read_scored, write_results
from vldistill.models.base.checkpoint import ModelSpec, save_model
from vldistill.models.build import load_student
from vldistill.models.vilt.model import EncoderConfig, Vilt
from vldistill.recipe.load import dump_recipe, load_recipe
from vldistill.store.layout import Column
from vldistill.teachers.cache import CacheWriter, FeatureCache
from vldistill.training.checkpoint import State, load_state, save_state

WORDS = ["is", "there", "a", "red", "square", "in", "the", "left", "image", "?"]


def pictures(folder: Path, count: int = 3) -> list[str]:
    """Images of noise; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 256, (8, 6 + number, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


# --- data --------------------------------------------------------------------------------------------------------------------


def raw_data(folder: Path, count: int = 6, images: int = 3) -> Path:
    """The user's own questions with answers, so many to train on and two more."""
    names = pictures(folder / "images", images)
    for split, records in (("train", count), ("val", 2)):
        rows = [
            {
                "id": f"{split}{number}",
                "image": f"images/{names[number % images]}",
                "text": " ".join([*WORDS[number % 6 :], *["more"] * (number // 6)]),
                "answers": ["yes", "no"][number % 2 :],
            }
            for number in range(records)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_data(place: Path, *, shards: int | None = None) -> Path:
    from vldistill.data.sources.jsonl import Jsonl

    folder = place / "data"
    prepare("jsonl", raw_data(place / "raw"), folder, options=Jsonl(min_answer_count=1), shards=shards)
    return folder


def read_data(folder: Path) -> Any:
    """All records, answers, images and their digests."""
    data = open_data(folder)
    digests = data.image_digests()
    found = {"task": data.task, "labels": data.labels, "fingerprint": data.fingerprint, "splits": data.splits}
    for split in data.splits:
        records = data.records(split)
        found[split] = [asdict(record) for record in records]
        found[f"{split} streamed"] = [asdict(record) for record in data.stream(split)]
        found[f"{split} images"] = [
            (digests[path].hex(), data.images.open(path).tobytes()) for record in records for path in record.images
        ]
    return found


# --- regions -----------------------------------------------------------------------------------------------------------------


def make_regions(place: Path) -> Path:
    folder = place / "regions"
    writer, random = RegionWriter(folder), np.random.default_rng(0)
    for number in range(1, 5):
        count = 4 + number
        writer.add(
            str(number),
            ImageRegions(
                random.standard_normal((count, 8)).astype(np.float16),
                np.sort(random.random((count, 4)), axis=1).astype(np.float32),
                random.random(count).astype(np.float16),
                random.random((count, 3)).astype(np.float16),
                random.standard_normal(8).astype(np.float16),
                (640, 480),
            ),
        )
        if number % 2 == 0:
            writer.commit()
    writer.close(features="detector")
    return folder


def read_regions(folder: Path) -> Any:
    store = RegionStore(folder)
    found: dict[str, Any] = {"width": store.width, "features": store.features, "count": len(store)}
    for key in map(str, range(1, 5)):
        parts = asdict(store[key])
        found[key] = {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in parts.items()}
    return found


# --- teacher cache -----------------------------------------------------------------------------------------------------------

KEYS = np.random.default_rng(0).integers(0, 256, (40, 20), np.uint8)
_COLUMNS = (Column("pooled", "float16", (16,)), Column("scores", "float32", ragged=True))


def make_cache(place: Path) -> Path:
    lengths = {"scores": KEYS[:, 0].astype(np.int64) % 4}
    pooled, scores = np.resize(KEYS.astype(np.float16), (40, 16)), np.arange(lengths["scores"].sum(), dtype=np.float32)
    with CacheWriter(place, "swin", {"teacher": "swin", "layer": 12}, _COLUMNS) as writer:
        writer.pending(KEYS)
        writer.put(KEYS, {"pooled": pooled, "scores": scores}, lengths)
    return writer.folder


def read_cache(folder: Path) -> Any:
    cache = FeatureCache(folder)
    rows = cache.find(KEYS)
    if (rows < 0).any():  # to be computed once more
        return {"missing": rows.tolist()}
    return {
        "fields": cache.fields,
        "complete": cache.complete,
        "pooled": cache.read(rows, "pooled").tolist(),
        "scores": [cache.read_ragged(row, "scores").tolist() for row in rows.tolist()],
    }


# --- models and runs ---------------------------------------------------------------------------------------------------------


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A ViLT of two layers, 16 wide, with a head of three classes."""
    tokenizer = train_tokenizer([WORDS, ["two", "dogs", "run"]], 80)
    encoder = EncoderConfig(
        vocab_size=len(tokenizer.vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        max_position_embeddings=12,
    )
    spec = ModelSpec("vilt", encoder, "snli_ve", 1, ["no", "yes", "maybe"], 8, 12)
    torch.manual_seed(seed)
    save_model(folder, Vilt(encoder, images=1, classes=3), spec, tokenizer)
    return folder


def make_model(place: Path) -> Path:
    """As `convert` leaves it."""
    folder = save_tiny_model(place / "converted")
    write_converted(folder, place)
    return folder


def read_model(folder: Path) -> Any:
    model, spec, tokenizer = load_student(str(folder))
    weights = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    return {"spec": spec.to_config(), "weights": weights, "pieces": tokenizer.pieces(WORDS), "words": tokenizer.vocabulary}


def make_run(place: Path) -> Path:
    """A finished run with two evaluations, as training and `evaluate` leave it."""
    from vldistill.artifacts import file_digest

    folder = place / "runs" / "tiny" / "default" / "seed0"
    save_tiny_model(folder / "model")
    write_text(folder / "recipe.yaml", dump_recipe(load_recipe("quickstart_dide")))
    rows = [{"step": step, "split": split, "loss": 1 / step} for step in range(1, 9) for split in ("train", "val")]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    kept = [folder / "recipe.yaml", folder / "metrics.jsonl", *sorted((folder / "model").iterdir())]
    write_manifest(
        folder,
        new_manifest(
            "distill",
            recipe="tiny",
            recipe_hash="h",
            overrides=[],
            seed=0,
            parents={"data": "d" * 64},
            data=str(place / "gone"),
            counts={"train": 8, "val": 2},
            partial=False,
            status="complete",
            device="CPU",
            precision="fp32",
            wall_s=2.0,
            best={"step": 4, "accuracy": 0.5},
            cost={"seconds": 2.0},
            complete=True,
            files={path.relative_to(folder).as_posix(): file_digest(path) for path in kept},
        ),
    )
    write_answers(folder / "eval" / "val", right=3)
    return folder


def write_answers(folder: Path, *, right: int) -> None:
    """Six answers, so many of them right."""
    rows = [
        {
            "id": f"v{number}",
            "prediction": ["no", "yes"][number < right],
            "confidence": 0.75,
            "score": float(number < right),
            "type": "ab"[number % 2],
        }
        for number in range(6)
    ]
    write_results(
        folder,
        [json.dumps(row) for row in rows],
        {"source": "x", "split": "val", "data": "d" * 64, "partial": False, "accuracy": right / 6, "count": 6},
    )


def read_run(folder: Path) -> Any:
    """Its model, and what `report` says of it; a report flags a damaged run instead of refusing it."""
    from vldistill.errors import InputError

    record = read_runs([folder])[0]
    if record.flag is not None:
        raise InputError(f"is shown as: {record.flag}", where=str(folder))
    return {"record": {**asdict(record), "folder": "", "variant": ""}, "model": read_model(folder)}


def read_results_of(folder: Path) -> Any:
    """What `compare` makes of a run's answers and of others."""
    other = folder.parent / "other"
    if not other.exists():
        write_answers(other / "eval" / "val", right=5)
    a, b = read_scored(str(folder), "val"), read_scored(str(other), "val")
    check_same(a, b)
    return {**comparison(a, b), "a": "", "b": ""}


# --- checkpoints -------------------------------------------------------------------------------------------------------------


def make_checkpoint(place: Path) -> Path:
    place.mkdir(parents=True)
    values = {"best": {"step": 1, "metrics": {"accuracy": 0.5}}, "curve": 812, "schedule": {"last_epoch": 3}}
    return save_state(place, State(0, 3, 3, 0, 3, values, {"student.w": torch.arange(40.0)}, {"processes": 1, "threads": 1}))


def read_state(folder: Path) -> Any:
    state = load_state(folder)
    return {**vars(state), "tensors": {name: value.tolist() for name, value in state.tensors.items()}}


# --- image index -------------------------------------------------------------------------------------------------------------


class _Towers(nn.Module):
    """Stands for a dual encoder: a vector is the mean colour of an image, four times."""

    width = 12

    def encode_image(self, shown: Tensor, place: int) -> Tensor:
        return shown.float().mean(dim=(1, 2)).repeat(1, 4) + place


class _Sight:
    """As a student's `VisualInput` that sees 6 x 6 pixels."""

    def __init__(self, images: ImageFolder):
        self._images = images

    def read(self, path: str, key: Any) -> Tensor:
        return torch.from_numpy(np.array(self._images.open(path).resize((6, 6))))

    def stack(self, views: list[Tensor]) -> Tensor:
        return torch.stack(views)


def make_index(place: Path) -> Path:
    names, root = pictures(place / "pictures", 5), ImageFolder(place / "pictures")
    known = {name: ImageInfo(f"{number:040x}", 6, 8) for number, name in enumerate(names)}
    build_index(
        place / "index",
        _Towers(),
        {"kind": "tiny", "weights": "w", "places": 2},
        IndexSource(root, root.root, known),
        _Sight(root),
        batch=2,
        device=torch.device("cpu"),
        source="tiny",
    )
    return place / "index"


def read_index(folder: Path) -> Any:
    index = ImageIndex(folder)
    rows = [index.place_of(bytes.fromhex(f"{number:040x}"), str(number)) for number in range(5)]
    return {
        "rows": index.rows,
        "fields": index.fields,
        "model": index.model,
        "places": rows,
        "vectors": index.of(slice(None)).tolist(),
    }


KINDS = {
    "data": (make_data, read_data, 36),
    "shards": (lambda place: make_data(place, shards=2), read_data, 30),
    "regions": (make_regions, read_regions, 24),
    "cache": (make_cache, read_cache, 24),
    "model": (make_model, read_model, 30),
    "run": (make_run, read_run, 36),
    "results": (make_run, read_results_of, 24),
    "checkpoint": (make_checkpoint, read_state, 20),
    "index": (make_index, read_index, 24),
}
"""Of each kind: what makes one below a folder, what reads all of one, and how many are damaged."""
FILES = {"results": ["eval/val/metrics.json", "eval/val/predictions.jsonl"]}


def seal_again(path: Path) -> None:
    """Makes the checksum of a JSON file right."""
    path.write_text(json.dumps(sealed(json.loads(path.read_text()))))
