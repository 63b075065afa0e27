"""Reading shards: any image by its path, in any process; every fault is one line."""

import json
import multiprocessing
import os
import shutil
import tarfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_worlds import noise, write_lines
from shard_worlds import NAMES, pair_world, single_world

from vldistill.data import images as image_module
from vldistill.data.artifact import open_data
from vldistill.data.datasets import RecordDataset
from vldistill.data.images import ImageFolder, ShardImages
from vldistill.data.loading import make_loader
from vldistill.data.prepare import prepare
from vldistill.data.samplers import CleanBatches, EpochBatches
from vldistill.data.sequences import PlainLayout
from vldistill.data.text import train_tokenizer
from vldistill.data.transforms import ImageTransform
from vldistill.data.visual import PatchInput
from vldistill.errors import InputError

PATHS = [f"images/{name}" for name in NAMES]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """`single` and `pairs`, artifacts with shards of 3 samples, and `kept/...`, the images that were packed."""
    folder = tmp_path_factory.mktemp("shards")
    for name, write in (("single", single_world), ("pairs", pair_world)):
        write(folder / "raw" / name)
        prepare("jsonl", folder / "raw" / name, folder / name, shards=3)
    (folder / "raw").rename(folder / "kept")
    return folder


@pytest.fixture
def out(made, tmp_path) -> Path:
    """The artifact of single images, to be damaged."""
    return Path(shutil.copytree(made / "single", tmp_path / "out"))


def place_of(out: Path, path: str) -> tuple[Path, str, int]:
    """Where an image lies, by `tarfile`: tar, member and the first byte of its content."""
    for tar_path in sorted((out / "shards").glob("train-*.tar")):
        with tarfile.open(tar_path) as tar:
            for member in tar.getmembers():
                if member.name.endswith("json") and json.load(tar.extractfile(member))[0]["images"] == [path]:
                    image = next(m for m in tar.getmembers() if m.name.startswith(f"{member.name[:9]}.0."))
                    return tar_path, image.name, image.offset_data
    raise AssertionError(path)


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


# --- any image, by its path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, paths", [("single", PATHS), ("pairs", PATHS[:4])])
def test_every_image_is_its_file_and_its_pixels(made, name, paths):
    data, folder = open_data(made / name), ImageFolder(made / "kept" / name)
    assert isinstance(data.images, ShardImages) and not Path(data.manifest["raw_root"]).exists()
    for path in [*paths, *reversed(paths)]:
        assert data.images.read(path) == (made / "kept" / name / path).read_bytes() == folder.read(path)
        image = data.images.open(path)
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), np.asarray(folder.open(path)))


def test_without_shards_the_files_are_read_and_are_needed(made, tmp_path):
    shutil.copytree(made / "kept/single", tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    assert open_data(tmp_path / "out").images == ImageFolder((tmp_path / "raw").resolve())
    shutil.rmtree(tmp_path / "raw")
    with pytest.raises(InputError, match=r"its raw folder .* is gone"):
        open_data(tmp_path / "out")


def test_few_files_are_open_at_once(made, monkeypatch):
    monkeypatch.setattr(image_module, "MOST_OPEN", 2)
    images = open_data(made / "single").images
    for path in PATHS * 3:
        assert images.read(path) == (made / "kept/single" / path).read_bytes()
        assert len(images._files) <= 2 and not any(file.closed for file in images._files.values())


def read_often(images: ShardImages, folder: Path, seed: int) -> bool:
    order = np.random.default_rng(seed).integers(0, len(PATHS), 500)
    return all(images.read(PATHS[i]) == (folder / PATHS[i]).read_bytes() for i in order)


def test_processes_do_not_disturb_each_other(made):
    """A forked process has its parent's files, and with them a place in each that both would move."""
    images, folder = open_data(made / "single").images, made / "kept/single"
    assert read_often(images, folder, 0)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=lambda seed=seed: queue.put(read_often(images, folder, seed))) for seed in (1, 2, 3)]
    for child in children:
        child.start()
    assert read_often(images, folder, 4) and all([queue.get() for _ in children])
    for child in children:
        child.join()


def test_a_spawned_process_is_handed_no_index_and_no_file(made):
    images = open_data(made / "single").images
    images.read(PATHS[0])
    assert len(ForkingPickler.dumps(images)) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(images.read, (PATHS[1],)) == (made / "kept/single" / PATHS[1]).read_bytes()


def dataset(made: Path, images, **options) -> RecordDataset:
    records = open_data(made / "single").records("train")
    tokenizer = train_tokenizer([tuple(record.text) for record in records], 60)
    visual = PatchInput(images, ImageTransform(32, 8, "jitter"), **options)
    return RecordDataset(records, PlainLayout(tokenizer, 10), visual, pad_id=tokenizer.pad_id)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("memory", [False, True])
def test_the_stream_of_batches_is_that_of_files(made, workers, memory):
    def stream(images, workers):
        examples = dataset(made, images, memory=memory)
        for batches in (EpochBatches(len(examples), 4, seed=1), CleanBatches(len(examples), 4)):
            for batch in make_loader(examples, batches, workers=workers):
                yield batch.ids, batch.images[0].patches, batch.target

    shards = open_data(made / "single").images
    pairs = zip(stream(ImageFolder(made / "kept/single"), 0), stream(shards, workers), strict=True)
    count = 0
    for (ids, patches, target), (other_ids, other_patches, other_target) in pairs:
        assert ids == other_ids and torch.equal(patches, other_patches) and torch.equal(target, other_target)
        count += 1
    assert count == 6 + 7


# --- what may have happened to them -------------------------------------------------------------------------------------


def refused(action) -> InputError:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value) and "vldistill prepare" in caught.value.hint
    return caught.value


def test_a_missing_tar_or_index_is_told_on_opening(out):
    for name in ("train-000001.tar", "index.npy"):
        shutil.move(out / "shards" / name, out / "aside")
        error = refused(lambda: open_data(out))
        assert error.message == "is named in the manifest but missing" and error.where == str(out / "shards" / name)
        shutil.move(out / "aside", out / "shards" / name)
    open_data(out)
    shutil.rmtree(out / "shards")
    assert refused(lambda: open_data(out)).where == str(out / "shards/index.npy")


def test_an_edited_index_is_told_on_opening(out):
    index = out / "shards/index.npy"
    overwrite(index, index.stat().st_size - 9, b"\1")
    error = refused(lambda: open_data(out))
    assert error.message == "differs from what its manifest records" and error.where == str(index)


def test_a_changed_byte_names_tar_and_member(out):
    tar, member, place = place_of(out, PATHS[1])
    overwrite(tar, place + 100, bytes([tar.read_bytes()[place + 100] ^ 1]))
    images = open_data(out).images
    error = refused(lambda: images.open(PATHS[1]))
    assert error.where == f"{tar}:{member}" and error.message == "image images/b.jpg differs from what was packed"
    for path in PATHS[2:]:
        images.open(path)


def test_a_tar_that_is_cut_off_names_tar_and_member(out):
    tar, member, place = place_of(out, PATHS[1])
    os.truncate(tar, place + 100)
    error = refused(lambda: open_data(out).images.read(PATHS[1]))
    assert error.where == f"{tar}:{member}" and error.message == "image images/b.jpg is cut off"
    os.truncate(tar, 0)
    error = refused(lambda: open_data(out).images.read(PATHS[1]))
    assert error.where == f"{tar}, byte {place:,}"


def test_a_tar_that_goes_while_it_is_used_is_one_error(out):
    tar, _, _ = place_of(out, PATHS[1])
    images = open_data(out).images
    tar.unlink()
    error = refused(lambda: images.read(PATHS[1]))
    assert error.where == str(tar) and "No such file" in error.message


def test_an_image_that_was_not_packed_is_one_error(out):
    assert refused(lambda: open_data(out).images.read("images/z.png")).message == "image images/z.png is not in the shards"


def test_an_image_that_was_broken_when_it_was_packed_names_tar_and_member(tmp_path):
    """Its header was good, and more was not looked at."""
    single_world(tmp_path / "raw")
    image = tmp_path / "raw/images/b.jpg"
    image.write_bytes(image.read_bytes()[:-60])
    prepare("jsonl", tmp_path / "raw", tmp_path / "single", shards=3, decode_images=False)
    tar, member, _ = place_of(tmp_path / "single", PATHS[1])
    examples = dataset(tmp_path, open_data(tmp_path / "single").images)
    with pytest.raises(InputError) as caught:
        list(make_loader(examples, CleanBatches(len(examples), 4)))
    assert caught.value.where == f"{tar}:{member}" and "truncated" in caught.value.message and "\n" not in str(caught.value)
    assert "image images/b.jpg " in caught.value.message


# --- by the library that the format is of -------------------------------------------------------------------------------


def test_webdataset_reads_and_decodes_the_tars(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    paths = [f"images/{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        noise((9, 7), seed=i).save(tmp_path / "raw" / path)
    write_lines(
        tmp_path / "raw/train.jsonl",
        [{"id": f"{path}-{i}", "images": [path, paths[0]], "text": "Is it?", "label": "yes"} for i in range(2) for path in paths],
    )
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=3)
    urls = [str(path) for path in sorted((tmp_path / "out/shards").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [f"{i:09d}" for i in range(5)]
    for sample in found:
        images = sample["json"][0]["images"]
        assert [row["images"] for row in sample["json"]] == [images] * 2
        for position, path in enumerate(images):
            assert np.array_equal(sample[f"{position}.png"], np.asarray(ImageFolder(tmp_path / "raw").open(path)))
