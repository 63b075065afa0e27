"""`prepare` with shards: what the tars hold by Python's `tarfile`, the same bytes everywhere, and nothing left of a failure."""

import json
import tarfile
from hashlib import blake2b, sha256
from pathlib import Path

import pytest
from raw_worlds import vqa_world, write_lines
from shard_worlds import ENDINGS, NAMES, lines, pair_world, single_world

from vldistill.artifacts import read_manifest, write_manifest
from vldistill.data import image_files, shards
from vldistill.data.artifact import open_data
from vldistill.data.prepare import prepare
from vldistill.data.shards import header
from vldistill.data.sources.vqa import Vqa
from vldistill.data.variants import Variants
from vldistill.errors import InputError


def packed(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def samples(folder: Path, split: str) -> list[dict[str, bytes]]:
    """The samples of a split by `tarfile`: for each the content of its members, by what stands behind the key."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((folder / "shards").glob(f"{split}-*.tar")):
        with tarfile.open(path, "r:") as tar:
            for member in tar.getmembers():
                assert member.isreg() and (member.mode, member.mtime, member.uid, member.gid) == (0o644, 0, 0, 0)
                assert not (member.uname or member.gname or member.pax_headers)
                key, _, ending = member.name.partition(".")
                assert len(key) == 9 and key.isdigit()
                found.setdefault(key, {})[ending] = tar.extractfile(member).read()
    assert list(found) == [f"{i:09d}" for i in range(len(found))]
    return list(found.values())


def rank(*paths: str) -> bytes:
    return blake2b("\0".join(("0", *paths)).encode(), digest_size=8).digest()


def test_a_sample_is_an_image_with_all_its_records(tmp_path):
    single_world(tmp_path / "raw")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    assert set(packed(tmp_path / "out")) == {"index.npy", *(f"train-{i:06d}.tar" for i in range(3)), "val-000000.tar"}
    order = sorted((f"images/{name}" for name in NAMES), key=rank)
    found, rows = samples(tmp_path / "out", "train"), lines(tmp_path / "out", "train")
    assert len(found) == 10
    for path, sample in zip(order, found, strict=True):
        assert json.loads(sample["json"]) == [row for row in rows if row["images"] == [path]]  # in file order
        ending = ENDINGS[path.removeprefix("images/")]
        assert list(sample) == ["json", f"0.{ending}"]
        assert sample[f"0.{ending}"] == (tmp_path / "raw" / path).read_bytes()
    # Two images of train stand in val too, and are packed with it again.
    assert [len(json.loads(sample["json"])) for sample in samples(tmp_path / "out", "val")] == [2, 2]
    sizes = {
        split: sum(len(data) for name, data in packed(tmp_path / "out").items() if name.startswith(split))
        for split in ("train", "val")
    }
    assert manifest["shards"] == {
        "train": {"files": 3, "samples": 10, "bytes": sizes["train"]},
        "val": {"files": 1, "samples": 2, "bytes": sizes["val"]},
    }


def test_a_tar_holds_so_many_samples_and_the_last_the_rest(tmp_path):
    single_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    counts = []
    for path in sorted((tmp_path / "out/shards").glob("train-*.tar")):
        with tarfile.open(path) as tar:
            counts.append(len(tar.getnames()) // 2)
    assert counts == [4, 4, 2]
    prepare("jsonl", tmp_path / "raw", tmp_path / "one", shards=10)
    assert set(packed(tmp_path / "one")) == {"index.npy", "train-000000.tar", "val-000000.tar"}


def test_pairs_keep_their_order(tmp_path):
    pairs = pair_world(tmp_path / "raw")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=100)
    found = samples(tmp_path / "out", "train")
    assert manifest["shards"]["train"]["samples"] == 6
    for images, sample in zip(sorted(pairs, key=lambda pair: rank(*pair)), found, strict=True):
        assert [row["images"] for row in json.loads(sample["json"])] == [images] * 2
        parts = [f"{i}.{path.rpartition('.')[2]}" for i, path in enumerate(images)]
        assert list(sample) == ["json", *parts]
        assert [sample[part] for part in parts] == [(tmp_path / "raw" / path).read_bytes() for path in images]


def test_the_header_is_that_of_posix_ustar():
    block = header("000000012.0.jpg", 0o1234567)
    # Of `tarfile.TarInfo.tobuf` for the same member, Python 3.11.
    assert sha256(block).hexdigest() == "a637524548e2ebdb566f6797bc0245a4b34659384449bb6db02b0c83ad9d68ad"
    assert int(block[148:154], 8) == sum(block[:148]) + 8 * 32 + sum(block[156:]) and len(block) == 512


def test_the_same_input_gives_the_same_bytes(tmp_path):
    rows = single_world(tmp_path / "raw")
    first = prepare("jsonl", tmp_path / "raw", tmp_path / "one", shards=4)
    again = prepare("jsonl", tmp_path / "raw", tmp_path / "two", shards=4)
    assert packed(tmp_path / "one") == packed(tmp_path / "two") and first["files"] == again["files"]
    # Listed in another order, except that the records of an image keep theirs.
    rows.sort(key=lambda row: (row["image"][::-1], int(row["id"][1:])))
    write_lines(tmp_path / "raw/train.jsonl", rows)
    prepare("jsonl", tmp_path / "raw", tmp_path / "three", shards=4)
    assert (tmp_path / "one/train.jsonl").read_text() != (tmp_path / "three/train.jsonl").read_text()
    assert packed(tmp_path / "one") == packed(tmp_path / "three")


def test_shards_leave_the_fingerprint_and_are_listed_with_their_digests(tmp_path):
    single_world(tmp_path / "raw")
    plain = prepare("jsonl", tmp_path / "raw", tmp_path / "plain")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    assert manifest["fingerprint"] == plain["fingerprint"]
    assert manifest == read_manifest(tmp_path / "out", "prepare", make_it="")
    digests = {f"shards/{name}": sha256(data).hexdigest() for name, data in packed(tmp_path / "out").items()}
    assert manifest["files"] == plain["files"] | digests
    assert manifest["options"]["shards"] == 4 and "shards" not in plain


def test_a_limit_packs_what_it_leaves(tmp_path):
    single_world(tmp_path / "raw")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out", limit=3, shards=100)
    assert manifest["partial"] and manifest["shards"]["train"]["samples"] == 3 and manifest["shards"]["val"]["samples"] == 2
    with tarfile.open(tmp_path / "out/shards/train-000000.tar") as tar:
        assert len(tar.getnames()) == 6


def test_progress_tells_what_is_counted(tmp_path):
    single_world(tmp_path / "raw")
    told = []
    prepare(
        "jsonl",
        tmp_path / "raw",
        tmp_path / "out",
        shards=4,
        progress=lambda *done: told.append(("images", *done)),
        packing=lambda *done: told.append(("samples", *done)),
    )
    assert told == [("images", 10, 10), ("samples", 12, 12)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"shards": 0}, "shards is 0"), ({"shards": 5, "check_images": False}, "--shards needs images that are checked")],
)
def test_what_cannot_be_packed_is_refused(tmp_path, arguments, reason):
    single_world(tmp_path / "raw")
    with pytest.raises(InputError, match=reason):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_samples_are_told_apart_where_their_hashes_are_equal(tmp_path, monkeypatch):
    single_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    monkeypatch.setattr(shards, "path_key", lambda path: 7)
    found = list(shards._Order(tmp_path / "out/train.jsonl").samples())
    assert [sample.images for sample in found] == sorted((f"images/{name}",) for name in NAMES)
    assert sum(len(sample.lines) for sample in found) == 25
    with pytest.raises(InputError, match="10 images have 1 keys"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out2", shards=4)
    assert not (tmp_path / "out2").exists()


# --- failures ----------------------------------------------------------------------------------------------------------


def changing(monkeypatch, change):
    """Once images have been checked, and before they are packed, `change()` happens."""
    check = image_files.check_images

    def checked(*arguments, **options):
        found = check(*arguments, **options)
        change()
        return found

    monkeypatch.setattr(image_files, "check_images", checked)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "has changed since it was checked"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
)
def test_an_image_that_changes_before_it_is_packed_is_an_error(tmp_path, monkeypatch, tree, change, reason):
    single_world(tmp_path / "raw")
    image = tmp_path / "raw/images/b.jpg"
    changing(monkeypatch, lambda: change(image))
    with pytest.raises(InputError, match=reason) as caught:
        prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    assert caught.value.where == str(image) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def interrupt(monkeypatch, after: int):
    write, calls = shards._write, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(shards, "_write", interrupted)


def test_an_interruption_while_packing_leaves_nothing(tmp_path, monkeypatch, tree):
    single_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "kept")
    before = tree(tmp_path)
    for arguments in ({"out": tmp_path / "new"}, {"out": tmp_path / "kept"}, {"out": tmp_path / "kept", "overwrite": True}):
        with monkeypatch.context() as patch:
            interrupt(patch, after=5)
            with pytest.raises(KeyboardInterrupt):
                prepare("jsonl", tmp_path / "raw", shards=4, **arguments)
        assert tree(tmp_path) == before


# --- added to an artifact that is there --------------------------------------------------------------------------------


def test_shards_are_added_to_an_artifact_of_the_same_input(tmp_path, tree):
    single_world(tmp_path / "raw")
    first = prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    prepare("jsonl", tmp_path / "raw", tmp_path / "other", shards=4)
    before = tree(tmp_path / "out")
    dry = prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4, dry_run=True)
    assert dry["packed"] and dry["unchanged"] and tree(tmp_path / "out") == before
    added = prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    assert added["packed"] and added["fingerprint"] == first["fingerprint"]
    assert packed(tmp_path / "out") == packed(tmp_path / "other")
    manifest, other = (read_manifest(tmp_path / name, "prepare", make_it="") for name in ("out", "other"))
    assert manifest.keys() == other.keys()
    assert all(manifest[key] == other[key] for key in ("files", "shards", "options", "inputs", "fingerprint", "variants"))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    before = tree(tmp_path)
    for size in (4, None):  # nothing is missing
        again = prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=size)
        assert again["unchanged"] and "packed" not in again and tree(tmp_path) == before


def test_shards_of_another_size_are_refused(tmp_path, tree):
    single_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    before = tree(tmp_path)
    for dry_run in (False, True):
        with pytest.raises(InputError, match=r"already has shards, of 4 samples \(pass --overwrite, or --shards 4\)"):
            prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=5, dry_run=dry_run)
    assert tree(tmp_path) == before
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=5, overwrite=True)
    assert len(packed(tmp_path / "out")) == 4


@pytest.mark.parametrize("name", ["train.jsonl", "images.jsonl"])
def test_nothing_is_added_to_an_edited_artifact(tmp_path, name):
    single_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    with (tmp_path / "out" / name).open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="differs from what its manifest records"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)
    assert not (tmp_path / "out/shards").exists()


def test_shards_that_no_manifest_names_are_replaced(tmp_path):
    """A command that is killed between its two last steps leaves them."""
    single_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    (tmp_path / "out/shards").mkdir()
    (tmp_path / "out/shards/train-000009.tar").touch()
    assert open_data(tmp_path / "out").images.read("images/a.png")  # from its file
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=100)
    assert set(packed(tmp_path / "out")) == {"index.npy", "train-000000.tar", "val-000000.tar"}


def test_variants_and_shards_are_added_together(tmp_path):
    vqa_world(tmp_path / "raw")
    options, out = Vqa(min_answer_count=1), tmp_path / "out"
    prepare("vqa", tmp_path / "raw", out, options=options)
    both = prepare("vqa", tmp_path / "raw", out, options=options, variants=Variants(statements=True), shards=2)
    assert both["added"] == ["train-statements"] and both["packed"]
    manifest = read_manifest(out, "prepare", make_it="")
    assert "packed" not in manifest and "added" not in manifest and "unchanged" not in manifest
    data = open_data(out)
    for record in data.records("train-statements"):
        assert data.images.read(record.images[0]) == (tmp_path / "raw" / record.images[0]).read_bytes()


def test_an_artifact_of_an_earlier_version_can_be_given_shards(tmp_path):
    """Its options do not name them yet."""
    single_world(tmp_path / "raw")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    del manifest["options"]["shards"]
    write_manifest(tmp_path / "out", manifest)
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "out")["unchanged"]
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=4)["packed"]
