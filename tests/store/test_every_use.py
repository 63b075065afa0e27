"""What holds for every use of the store, through the commands that make and read one. It goes over the product's own table: a use
that is added there needs a row of `COMMANDS` here."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import forked
import h5py
import numpy as np
import pytest
import torch
from tiny_teachers import write_bert, write_vit

from vldistill.artifacts import MANIFEST, write_manifest
from vldistill.data.regions.store import RegionStore
from vldistill.data.text import train_tokenizer
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex
from vldistill.models.base.checkpoint import ModelSpec, save_model
from vldistill.models.vilt.model import EncoderConfig, ViltDual
from vldistill.store import writer as writer_module
from vldistill.store.inspection import verify_store
from vldistill.store.reader import StoreReader
from vldistill.store.staging import staged_store
from vldistill.store.uses import USES, Use
from vldistill.store.writer import StoreWriter
from vldistill.teachers.cache import FeatureCache

sys.path += [str(Path(__file__).parents[1] / name) for name in ("hostile", "data")]
import region_files
from hostile_worlds import WORDS, pictures, raw_data

RECIPE = """
data: {path: data}
image: {size: 36}
text: {max_length: 16, vocabulary_size: 120}
student: {kind: vilt, sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}}
teachers:
  vision: {kind: timm, model: teachers/vit}
  text: {kind: transformers, model: teachers/bert}
  batch: 4
objective: {kind: advl, answer_loss: softmax, words: 0}
train: {steps: 1, batch: {pairs: 4}}
"""
ROWS = 30
"""Images of each store."""


@dataclass(frozen=True)
class Commands:
    """make: the command that makes a store. read: all that its readers give of one."""

    make: tuple[str, ...]
    read: Callable[[Path], object]


def _features(folder: Path) -> object:
    cache = FeatureCache(folder)
    rows = cache.read(np.arange(len(cache)), "features")
    return [cache.fields, {key.tobytes(): row.tobytes() for row, key in zip(rows, cache.keys, strict=True)}]


def _regions(folder: Path) -> object:
    store = RegionStore(folder)
    return {name: [str(store[name]), store[name].features.tobytes()] for name in store}


def _vectors(folder: Path) -> object:
    index = ImageIndex(folder)
    return [index.rows, index.fields, index.of(slice(None)).numpy().tobytes()]


COMMANDS = {
    "cache": Commands(("cache", "--recipe", "advl.yaml"), _features),
    "regions": Commands(("prepare", "regions", "import", "--raw", "npz", "--boxes", "1,100"), _regions),
    "index": Commands(("index", "build", "model", "photos", "--batch", "4"), _vectors),
}
every_use = pytest.mark.parametrize("use", USES, ids=lambda use: use.stage)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, well) -> Path:
    """A folder with all that the commands read."""
    folder = tmp_path_factory.mktemp("uses")
    raw_data(folder / "mine", 40, ROWS)
    pictures(folder / "photos", ROWS)
    region_files.write_npz(folder / "npz", [region_files.make(str(number)) for number in range(1, ROWS + 1)])
    write_vit(folder / "teachers" / "vit")
    write_bert(folder / "teachers" / "bert")
    (folder / "advl.yaml").write_text(RECIPE)
    tokenizer = train_tokenizer([WORDS], 80)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    encoder = EncoderConfig(vocab_size=len(tokenizer.vocabulary), image_size=8, patch_size=4, max_position_embeddings=12, **sizes)
    torch.manual_seed(0)
    spec = ModelSpec("dual_encoder", encoder, "snli_ve", 1, ["no", "yes", "maybe"], 8, 12)
    save_model(folder / "model", ViltDual(encoder, images=1, classes=3), spec, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "jsonl", "--raw", "mine", "--out", "data", "--min-count", "1")
    return folder


@pytest.fixture
def place(inputs, monkeypatch) -> Path:
    """The same as the working folder, without stores."""
    monkeypatch.chdir(inputs)
    shutil.rmtree(inputs / "artifacts", ignore_errors=True)
    return inputs


@pytest.fixture
def small(monkeypatch) -> None:
    """A shard for each batch, as in a store that is large."""
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)


def stores(use: Use) -> list[Path]:
    """Whole ones."""
    return sorted(path for path in use.place.iterdir() if not path.name.startswith("."))


def contents(use: Use) -> dict[str, dict[bytes, list[bytes]]]:
    """Every row of every store, by its key."""
    found = {}
    for folder in stores(use):
        store = StoreReader(folder, use)
        rows = [[_row(store, row, column) for column in store.columns] for row in range(len(store))]
        found[folder.name] = dict(zip(map(bytes, store.keys), rows, strict=True))
    return found


def _row(store: StoreReader, row: int, column) -> bytes:
    return (store.read_ragged(row, column.name) if column.ragged else store.read([row], column.name)).tobytes()


def shards_of(use: Use) -> dict[int, int]:
    """By inode, the time of each file of rows that a manifest names, whole or begun."""
    found = {}
    for manifest in use.place.glob("*/manifest.json") if use.place.exists() else ():
        for name in json.loads(manifest.read_text())["shards"]:
            state = (manifest.parent / f"{name}.h5").stat()
            found[state.st_ino] = state.st_mtime_ns
    return found


def rows_of(use: Use) -> int:
    """That manifests name, whole or begun."""
    found = [json.loads(manifest.read_text())["shards"] for manifest in use.place.glob("*/manifest.json")]
    return sum(shard["rows"] for shards in found for shard in shards.values())


def seen(use: Use, count: int, process: forked.Forked) -> None:
    """Waits until a command has written so many shards."""
    while len(list(use.place.glob("*/shard-*.json"))) < count:
        assert process.poll() is None, process.err
        time.sleep(0.001)


def test_every_use_is_here():
    assert set(COMMANDS) == {use.stage for use in USES} and len({use.place for use in USES}) == len(USES)


@every_use
def test_rows_come_back_and_hdf5_reads_every_shard(use, place, well, small):
    well(*COMMANDS[use.stage].make)
    for folder in stores(use):
        store, count = StoreReader(folder, use), 0
        assert store.complete and len(store) >= ROWS - 2 and verify_store(folder, use).damages == []
        assert COMMANDS[use.stage].read(folder)
        for path in sorted(folder.glob("*.h5")):
            with h5py.File(path) as file:
                rows = store.find(file["keys"][:])
                assert (rows >= 0).all() and all(file[name].chunks is None and file[name].compression is None for name in file)
                for column in store.columns:
                    values = file[column.name][:]
                    if not column.ragged:
                        np.testing.assert_array_equal(store.read(rows, column.name), values)
                    else:
                        starts = file[f"{column.name}.starts"][:]
                        for row, first, end in zip(rows.tolist(), starts, starts[1:], strict=False):
                            np.testing.assert_array_equal(store.read_ragged(row, column.name), values[first:end])
                count += len(rows)
        assert count == len(store) and len(list(folder.glob("*.h5"))) > 3
        assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@every_use
def test_a_flipped_bit_of_any_file_is_refused_by_every_reader(use, place, well):
    well(*COMMANDS[use.stage].make)
    chosen, folder = random.Random(0), stores(use)[0]
    read = COMMANDS[use.stage].read
    whole, files = read(folder), [path for path in folder.iterdir() if not path.name.endswith(".lock")]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        for bit in chosen.sample(range(8 * len(content)), 6):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            damages = verify_store(folder, use).damages
            if not damages:  # a space of the manifest, perhaps
                assert path.name == MANIFEST and read(folder) == whole
                continue
            assert all("\n" not in str(damage) for damage in damages)
            with pytest.raises(InputError, match=re.escape(path.name if path.suffix != ".json" else str(folder))):
                read(folder)
        path.write_bytes(content)
    assert read(folder) == whole


@every_use
@pytest.mark.parametrize("shards", [1, 4])
def test_a_killed_command_is_gone_on_with(use, place, well, small, monkeypatch, shards):
    """And the same command finishes it: all shards that were named stay as they are, their rows are not made again, and none is
    missing."""
    well(*COMMANDS[use.stage].make)
    whole = contents(use)
    shutil.rmtree("artifacts")
    use.place.mkdir(parents=True)
    process = forked.command(place, place.with_name("killed"), *COMMANDS[use.stage].make)
    seen(use, shards, process)
    process.kill()
    kept, there = shards_of(use), rows_of(use)
    assert len(kept) >= shards - 1 and (use.shared or not stores(use))
    put, again = StoreWriter.put, []
    monkeypatch.setattr(StoreWriter, "put", lambda self, keys, *rest: again.extend(keys) or put(self, keys, *rest))
    well(*COMMANDS[use.stage].make)
    assert len(again) == sum(map(len, whole.values())) - there
    assert contents(use) == whole and kept.items() <= shards_of(use).items()
    assert not [path for path in use.place.rglob("*") if path.name.endswith((".tmp", ".growing"))]


@every_use
def test_a_full_disk_is_one_line_and_keeps_what_is_there(use, place, well, small):
    well(*COMMANDS[use.stage].make)
    whole = contents(use)
    shutil.rmtree("artifacts")
    real, written = writer_module.write_shard, []

    def fills(*arguments):
        written.append(1)
        if len(written) == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "write_shard", fills)
        process = forked.command(place, place.with_name("full"), *COMMANDS[use.stage].make)
        assert process.wait() == 1
    told = [line for line in process.err.splitlines() if line.startswith("vldistill: ")]
    assert len(told) == 1 and re.search(r"shard-000\d\.h5: cannot write [\d,]+ bytes: File too large", told[0])
    kept = shards_of(use)
    assert len(kept) == 3
    well(*COMMANDS[use.stage].make)
    assert contents(use) == whole and kept.items() <= shards_of(use).items()


@every_use
def test_a_second_command_is_turned_away(use, place, command, small):
    real, written = writer_module.write_shard, []

    def waits(*arguments):
        written.append(1)
        time.sleep(1.0 * (len(written) == 2))
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "write_shard", waits)
        process = forked.command(place, place.with_name("first"), *COMMANDS[use.stage].make)
    try:
        seen(use, 1, process)
        result = command(*COMMANDS[use.stage].make)
        assert result.code == 2 and f"process {process.number} on host" in result.err.splitlines()[-1]
        assert process.wait() == 0, process.err
    finally:
        process.kill()
    assert all(verify_store(folder, use).damages == [] for folder in stores(use))


@every_use
def test_a_copy_on_the_node_is_read_in_its_place(use, place, well, tmp_path, monkeypatch):
    well(*COMMANDS[use.stage].make)
    monkeypatch.setenv("VLDISTILL_STAGE", str(tmp_path))
    folder, read, told = stores(use)[0], COMMANDS[use.stage].read, []
    copy = staged_store(folder, use, told.append)
    assert copy.is_relative_to(tmp_path) and read(copy) == read(folder) and staged_store(folder, use, told.append) == copy
    assert ["were copied" in line for line in told] == [True, False]
    path = next(copy.glob("*.h5"))
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        last = file.read(1)
        file.seek(-8, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(InputError, match="it was a copy on this node and is dropped"):
        read(copy)
    assert not copy.exists() and read(staged_store(folder, use, told.append)) == read(folder)


def test_one_list_and_one_check_have_them_all(place, well, command):
    for commands in COMMANDS.values():
        well(*commands.make)
    listed = well("cache", "--ls").out
    folders = [(use, folder) for use in USES for folder in stores(use)]
    assert len(folders) == 4 and listed.count("complete") == 4 and all(folder.name in listed for _, folder in folders)
    assert well("cache", "--verify").err.count("0 fault(s)") + well("cache", "--verify").out.count("0 fault(s)") == 4
    for use, folder in folders:
        path = folder / "shard-0000.h5"
        content = path.read_bytes()
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
        result = command("cache", "--verify")
        assert result.code == 1 and str(path) in result.out + result.err and use.mend(folder, {})[:8] in result.out + result.err
        path.write_bytes(content)


@every_use
def test_one_of_an_earlier_version_is_refused_with_the_command_that_makes_it_again(use, place, well):
    well(*COMMANDS[use.stage].make)
    folder = stores(use)[0]
    value = json.loads((folder / MANIFEST).read_text())
    del value["layout"]
    write_manifest(folder, value)
    with pytest.raises(InputError, match=r"was made by an earlier version, whose layout is no longer read \(.*vldistill "):
        COMMANDS[use.stage].read(folder)
