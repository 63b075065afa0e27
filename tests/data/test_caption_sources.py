"""Conceptual Captions, SBU and Visual Genome in their layouts, and the reader of long JSON lists beneath them."""

import json
import random
import re

import pytest
from raw_worlds import Collected, write_lines

from vldistill.data.sources import captions, visual_genome
from vldistill.data.sources.rows import MOST_FAULTS, iterate_array
from vldistill.data.sources.table import SourceOptions
from vldistill.errors import InputError, Problems

TRAIN, VAL = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"
URLS, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"


def load(read, root, **options):
    problems, data = Problems(), Collected()
    read(root, SourceOptions(**options), problems, data)
    problems.raise_if_any()
    return data


def refused(read, root, place, reason):
    """One fault: `<root>/<place>: <reason> (<mend>)`, in one line."""
    problems = Problems()
    read(root, SourceOptions(), problems, Collected())
    assert len(problems.items) == 1, [str(item) for item in problems.items]
    message = str(problems.items[0])
    assert message.startswith(f"{root}/{place}: ") and re.search(reason, message), message
    assert "\n" not in message and message.endswith(")") and len(message) < 600


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def shown(records):
    return [(record.id, record.images[0], " ".join(record.text)) for record in records]


def gcc_world(root, name=TRAIN, folder="training", header=()):
    """Three rows; the second one's link is dead."""
    write_lines(root / name, [*header, *(f"a {word} dog .\thttp://x.org/{word}" for word in ("red", "lost", "blue"))])
    touch(root, f"{folder}/00000/000000000.jpg", f"{folder}/00000/000000002.jpg")
    return [(f"train-{row}", f"{folder}/00000/00000000{row}.jpg", f"a {word} dog .") for row, word in ((0, "red"), (2, "blue"))]


@pytest.mark.parametrize("name", [TRAIN, "Train-GCC-training.tsv"])
@pytest.mark.parametrize("header", [(), ("caption\turl",)])
def test_gcc_official(tmp_path, name, header):
    rows = gcc_world(tmp_path, name, header=header)
    gcc_world(tmp_path, VAL, "validation")
    data = load(captions.read_gcc, tmp_path)
    assert shown(data.splits["train"]) == rows and [record.id for record in data.splits["val"]] == ["val-0", "val-2"]
    assert data.notes == [f"{split}: 1 of 3 rows have no image; left out" for split in ("train", "val")]
    assert data.where["train"][1] == f"{tmp_path}/{name}:{3 + len(header)}"
    assert set(load(captions.read_gcc, tmp_path, splits=("val",)).splits) == {"val"}


def test_gcc_folders_of_ten_thousand(tmp_path):
    write_lines(tmp_path / TRAIN, [f"dog {i}\thttp://x" for i in range(10_002)])
    touch(tmp_path, "training/00001/000010001.jpg", "training/00000/000009999.jpg")
    assert [record.id for record in load(captions.read_gcc, tmp_path).splits["train"]] == ["train-9999", "train-10001"]


def test_gcc_paths(tmp_path):
    write_lines(tmp_path / TRAIN, ["a dog\tmine/a.jpg", "a cat\tmine/b.jpg", "a cow\tc..d.jpg"])
    touch(tmp_path, "mine/b.jpg", "c..d.jpg")
    rows = shown(load(captions.read_gcc, tmp_path).splits["train"])
    assert rows == [("train-1", "mine/b.jpg", "a cat"), ("train-2", "c..d.jpg", "a cow")]


def test_gcc_reads_odd_line_ends_and_characters(tmp_path):
    (tmp_path / TRAIN).write_bytes("\ufeffcafé \u2028 one\ta.jpg\r\ntwo\x85three\ta.jpg".encode())
    touch(tmp_path, "a.jpg")
    assert [record.text for record in load(captions.read_gcc, tmp_path).splits["train"]] == [["café", "one"], ["two", "three"]]


def test_vilt_layouts(tmp_path):
    paths = ["0000/0000001", "/data/images_train/0001/0001000", "0000003", "images_train/0000004"]
    entries = list(zip(paths, ("a dog", "a cat", "dead", "it"), strict=True))
    for read, name in ((captions.read_gcc, "train_annot.json"), (captions.read_sbu, "annot.json")):
        root = tmp_path / name
        touch(root, "images_train/0000/0000001", "images_train/0001/0001000", "images_train/0000/0000004")
        (root / name).write_text(json.dumps(entries))
        data = load(read, root)
        assert shown(data.splits["train"]) == [
            ("train-0", "images_train/0000/0000001", "a dog"),
            ("train-1", "images_train/0001/0001000", "a cat"),
            ("train-3", "images_train/0000/0000004", "it"),
        ]
        assert data.notes == ["train: 1 of 4 rows have no image; left out"]
    (tmp_path / "train_annot.json" / "val_annot.json").write_text('[["0000/0000001", "a dog"]]')
    touch(tmp_path / "train_annot.json", "images_val/0000/0000001")
    assert set(load(captions.read_gcc, tmp_path / "train_annot.json").splits) == {"train", "val"}


def test_both_layouts_are_noted(tmp_path):
    rows = gcc_world(tmp_path)
    (tmp_path / "train_annot.json").write_text("[]")
    data = load(captions.read_gcc, tmp_path)
    assert shown(data.splits["train"]) == rows and data.notes[0] == f"train: {TRAIN} is read, train_annot.json is not"


def sbu_world(root, captions=("a dog", "a cat", "a cow"), urls=("http://x/0.jpg", "http://x/1.jpg", "mine/2.jpg")):
    write_lines(root / CAPTIONS, captions)
    write_lines(root / URLS, urls)
    touch(root, "images/00000/000000001.jpg", "mine/2.jpg")


def test_sbu_official(tmp_path):
    sbu_world(tmp_path)
    data = load(captions.read_sbu, tmp_path)
    assert shown(data.splits["train"]) == [("train-1", "images/00000/000000001.jpg", "a cat"), ("train-2", "mine/2.jpg", "a cow")]
    assert data.notes == ["train: 1 of 3 rows have no image; left out"] and data.where["train"][0].endswith(f"{CAPTIONS}:2")
    assert not load(captions.read_sbu, tmp_path, splits=("val",)).splits


@pytest.mark.parametrize("read", [captions.read_gcc, captions.read_sbu, visual_genome.read])
def test_another_folder(tmp_path, read):
    touch(tmp_path, "x.txt")
    with pytest.raises(InputError, match=r"does not look like .*: found x.txt \(expected "):
        read(tmp_path, SourceOptions(), Problems(), Collected())


# A fourth line of the TSV, what the message says.
GCC_LINES = {
    "one column": (b"a dog", "has 1 column"),
    "three columns": (b"a dog\thttp://x\tlabels", "has 3 columns"),
    "blank line": (b"", "has 1 column"),
    "empty caption": (b"  \thttp://x", "the caption is empty"),
    "no address": (b"a dog\t ", "second column is empty"),
    "not UTF-8": (b"caf\xe9\thttp://x", "not UTF-8 at byte 3 of the line"),
    "path escape": (b"a dog\t../x.jpg", "leaves the raw folder"),
    "absolute path": (b"a dog\t/etc/x.jpg", "leaves the raw folder"),
    "endless line": (b"x" * (1 << 20) + b"x", "over 1 MiB"),
}


@pytest.mark.parametrize("name", GCC_LINES)
def test_faulty_tsv(tmp_path, name):
    gcc_world(tmp_path)
    line, reason = GCC_LINES[name]
    with (tmp_path / TRAIN).open("ab") as file:
        file.write(line + b"\n")
    refused(captions.read_gcc, tmp_path, f"{TRAIN}:4", reason)


def test_no_image_or_no_row_is_a_fault(tmp_path):
    write_lines(tmp_path / TRAIN, ["a dog\thttp://x"] * 3)
    refused(captions.read_gcc, tmp_path, f"{TRAIN}:1", r"none of its 3 rows has an image.*training/00000/000000000.jpg")
    (tmp_path / TRAIN).write_text("caption\turl\n")
    refused(captions.read_gcc, tmp_path, f"{TRAIN}:1", "holds no row")
    (tmp_path / TRAIN).unlink()
    (tmp_path / "val_annot.json").write_text('[["0001/0001000", "a dog"]]')
    refused(captions.read_gcc, tmp_path, "val_annot.json:1", "images_val/0001/0001000 is the first")


def test_another_file_is_given_up(tmp_path):
    write_lines(tmp_path / TRAIN, ["no tab"] * 5000)
    problems = Problems()
    captions.read_gcc(tmp_path, SourceOptions(), problems, Collected())
    assert len(problems.items) == MOST_FAULTS + 1 and "the rest was not read" in str(problems.items[-1])


def test_images_of_another_list_are_found_out(tmp_path):
    gcc_world(tmp_path)
    note = tmp_path / "training/00000/000000000.json"
    note.write_text(json.dumps({"url": "http://x.org/red", "key": "000000000"}))
    assert len(load(captions.read_gcc, tmp_path).splits["train"]) == 2
    note.write_text("{")
    assert len(load(captions.read_gcc, tmp_path).splits["train"]) == 2
    note.write_text(json.dumps({"url": "http://x.org/lost"}))
    refused(captions.read_gcc, tmp_path, f"{TRAIN}:1", "says that the image is from 'http://x.org/lost', the row has")


# Captions and addresses of SBU, where the fault is, what the message says.
SBU_FILES = {
    "a caption too many": (["a", "b", "c", "d"], None, f"{CAPTIONS}:4", "has 4 lines, .*urls.txt has 3"),
    "an address too many": (["a", "b"], None, f"{CAPTIONS}:3", "has 2 lines, .*urls.txt has 3"),
    "empty caption": (["a", " ", "c"], None, f"{CAPTIONS}:2", "the caption is empty"),
    "empty address": (None, ["http://x", "", "mine/2.jpg"], f"{URLS}:2", "the line is empty"),
    "path escape": (None, ["http://x", "http://x", "../2.jpg"], f"{CAPTIONS}:3", "leaves the raw folder"),
}


@pytest.mark.parametrize("name", SBU_FILES)
def test_faulty_sbu(tmp_path, name):
    texts, urls, place, reason = SBU_FILES[name]
    sbu_world(tmp_path, **{key: value for key, value in (("captions", texts), ("urls", urls)) if value})
    refused(captions.read_sbu, tmp_path, place, reason)


def test_sbu_files_that_are_lost_or_not_utf8(tmp_path):
    sbu_world(tmp_path)
    (tmp_path / URLS).write_bytes(b"http://x\nhttp://\xff\nmine/2.jpg\n")
    refused(captions.read_sbu, tmp_path, f"{URLS}:2", "not UTF-8 at byte 7 of the line")
    (tmp_path / URLS).unlink()
    refused(captions.read_sbu, tmp_path, URLS, "no such file.*aligned by line")


ENTRY = '["0000/0000000", "a dog"]'
ANNOTATIONS = {
    "an object": (f'[{ENTRY}, {{"path": 1}}]', "item[1]", "found an object"),
    "a list of one": (f'[{ENTRY}, ["0000/x"]]', "item[1]", "found a list of 1"),
    "caption is a number": (f'[{ENTRY}, ["0000/x", 3]]', "item[1]", "`caption` must be a text"),
    "caption is null": (f'[{ENTRY}, ["0000/x", null]]', "item[1]", "`caption` is null"),
    "empty caption": (f'[{ENTRY}, ["0000/x", " "]]', "item[1]", "`caption` is empty"),
    "path is a number": (f'[{ENTRY}, [1, "a"]]', "item[1]", "`path` must be a text"),
    "path is a folder": (f'[{ENTRY}, ["0000/", "a"]]', "item[1]", "names no file"),
    "path escape": (f'[{ENTRY}, ["../x", "a"]]', "item[1]", "leaves the raw folder"),
    "half a surrogate": (f'[{ENTRY}, ["0000/x", "\\ud800"]]', "item[1]", "surrogate"),
    "cut off": (f'[{ENTRY}, ["0000/x", "a d', "item[1]", "not valid JSON: Unterminated string"),
    "cut off between": (f"[{ENTRY}", "item[0]", "was expected after it, found the end of the file"),
    "no comma": (f"[{ENTRY} {ENTRY}]", "item[0]", "a comma or `]` was expected"),
    "trailing comma": (f"[{ENTRY},]", "item[1]", "not valid JSON"),
    "text after": (f"[{ENTRY}] x", "item[1]", "text follows"),
    "NaN": (f"[{ENTRY}, NaN]", "item[1]", "NaN is not valid JSON"),
    "duplicate key": (f'[{ENTRY}, {{"a": 1, "a": 2}}]', "item[1]", "appears twice"),
    "endless number": (f"[{ENTRY}, {'9' * 5000}]", "item[1]", "digits"),
    "deep nesting": (f"[{ENTRY}, {'[' * 100_000}", "item[1]", "nested too deeply"),
    "no list": ('{"a": 1}', "item[0]", "a JSON list was expected"),
    "empty list": ("[]", "item[0]", "the list is empty"),
    "empty file": ("", "item[0]", "a JSON list was expected"),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_faulty_annotations(tmp_path, name):
    text, place, reason = ANNOTATIONS[name]
    touch(tmp_path, "images_train/0000/0000000", "images_train/0000/x")
    (tmp_path / "annot.json").write_text(text)
    refused(captions.read_sbu, tmp_path, f"annot.json:{place}", reason)


def test_annotations_that_are_not_utf8(tmp_path):
    touch(tmp_path, "images_train/0000/0000000")
    before = f'[{ENTRY}, ["0000/x", "caf'.encode()
    (tmp_path / "annot.json").write_bytes(before + b'\xe9"]]')
    refused(captions.read_sbu, tmp_path, "annot.json:item[0]", f"not UTF-8 at byte {len(before)} ")


def value(rng, depth):
    kind = rng.randrange(8 if depth else 5)
    if kind > 4:
        members = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return members if kind == 5 else {f'{i}"\\é': member for i, member in enumerate(members)}
    return [
        None,
        rng.random() < 0.5,
        rng.randrange(-(10 ** rng.randrange(1, 20)), 10**9),
        rng.uniform(-1, 1) * 10.0 ** rng.randrange(-30, 30),
        "".join(rng.choice('a",[]{}:\\\n é\u2028\U0001f436') for _ in range(rng.randrange(12))),
    ][kind]


@pytest.mark.parametrize("seed", range(40))
def test_long_lists_are_read_as_json_reads_them(tmp_path, seed):
    rng = random.Random(seed)
    values = [value(rng, 3) for _ in range(rng.randrange(1, 30))]
    text = json.dumps(values, ensure_ascii=seed % 2 == 0, indent=[None, 1, "\t"][seed % 3])
    path = tmp_path / "list.json"
    path.write_bytes(b"\xef\xbb\xbf" * (seed % 5 == 0) + f" {text}\n ".encode())
    for chunk in (1, 2, 3, 5, 17, 1 << 20):
        problems = Problems()
        read = list(iterate_array(path, problems, chunk=chunk))
        assert not problems and [item for _, item in read] == values and read[-1][0] == f"{path}:item[{len(values) - 1}]"
        # However it is cut off, there is one fault and no exception, and what came before was read.
        whole = path.read_bytes()
        cut = tmp_path / "cut.json"
        cut.write_bytes(whole[: rng.randrange(len(whole.rstrip()))])
        read = list(iterate_array(cut, problems, chunk=chunk))
        assert len(problems.items) == 1 and [item for _, item in read] == values[: len(read)]


def test_an_item_without_end(tmp_path):
    (tmp_path / "list.json").write_text(f'[1, "{"x" * 500}"]')
    problems = Problems()
    assert len(list(iterate_array(tmp_path / "list.json", problems, chunk=10, largest=100))) == 1
    assert "item[1]: not valid JSON: the item does not end within 100 characters" in str(problems.items[0])


def region(number, image=1, **fields):
    box = {"x": -1, "y": 2, "width": 30, "height": 4.5}
    return {"region_id": number, "image_id": image, "phrase": f"a dog {number}", **box, **fields}


def genome(root, *images, folder=""):
    (root / folder).mkdir(parents=True, exist_ok=True)
    items = [{"id": number, "regions": rows} for number, rows in images]
    (root / folder / "region_descriptions.json").write_text(json.dumps(items))


@pytest.mark.parametrize(("annotations", "places"), [
    ("", ("VG_100K", "VG_100K_2")),
    ("annotations", ("images/VG_100K", "images/VG_100K_2")),
    ("", ("images/VG_100K", "images2/VG_100K_2")),
])  # fmt: skip
def test_visual_genome(tmp_path, annotations, places):
    images = [(1, [region(10), region(11, phrase=" ")]), (2, [region(12, 2)]), (3, [region(13, 3)]), (4, [])]
    genome(tmp_path, *images, folder=annotations)
    touch(tmp_path, f"{places[0]}/1.jpg", f"{places[1]}/2.jpg", f"{places[0]}/4.jpg")
    data = load(visual_genome.read, tmp_path)
    assert shown(data.splits["train"]) == [("10", f"{places[0]}/1.jpg", "a dog 10"), ("12", f"{places[1]}/2.jpg", "a dog 12")]
    assert data.splits["train"][0].meta == {"box": [-1, 2, 30, 4.5], "image_id": 1}
    assert data.notes == ["train: 1 of 4 images are not there; left out", "train: 1 regions with a blank phrase left out"]
    assert data.where["train"][0].endswith("region_descriptions.json#10")


def test_visual_genome_of_the_first_release(tmp_path):
    row = region(10)
    row["id"], row["image"] = row.pop("region_id"), row.pop("image_id")
    genome(tmp_path, (1, [row]))
    touch(tmp_path, "VG_100K/1.jpg")
    assert [record.id for record in load(visual_genome.read, tmp_path).splits["train"]] == ["10"]


GENOME = {
    "duplicate region": ([region(5), region(6), region(5)], "#5", "region_id 5 appears twice"),
    "another image": ([region(5, 2)], "#5", "image_id is 2, the regions are those of image 1"),
    "region id is a text": ([region("5")], ":item[0]:regions[0]", "`region_id` must be a whole number"),
    "phrase is a number": ([region(5, phrase=5)], "#5", "`phrase` must be a text"),
    "phrase is null": ([region(5, phrase=None)], "#5", "`phrase` is null"),
    "half a surrogate": ([region(5, phrase="\ud800")], "#5", "surrogate"),
    "side is a text": ([region(5, width="3")], "#5", "`width` must be a finite number, found a text"),
    "side is endless": ([region(5, width=float("1e308"))], "#5", "`width` must be a finite number"),
    "region is a list": ([[5]], ":item[0]", r"`regions\[0\]` must be an object"),
    "regions are an object": ({"5": 1}, ":item[0]", "`regions` must be a list"),
    "no phrase": ([{key: entry for key, entry in region(5).items() if key != "phrase"}], "#5", "`phrase` is missing"),
    "no box": ([{key: entry for key, entry in region(5).items() if key != "x"}], "#5", "`x` is missing"),
    "no region": ([], ":1", "holds no phrase"),
}


@pytest.mark.parametrize("name", GENOME)
def test_faulty_visual_genome(tmp_path, name):
    rows, place, reason = GENOME[name]
    genome(tmp_path, (1, rows))
    path = tmp_path / "region_descriptions.json"
    path.write_text(path.read_text().replace("1e+308", "1e999"))
    touch(tmp_path, "VG_100K/1.jpg")
    refused(visual_genome.read, tmp_path, f"region_descriptions.json{place}", reason)


def test_visual_genome_without_images_or_cut_off(tmp_path):
    genome(tmp_path, (1, [region(5)]), (2, [region(6, 2)]))
    refused(visual_genome.read, tmp_path, "region_descriptions.json:1", "none of its 2 images is there")
    touch(tmp_path, "VG_100K/1.jpg")
    path = tmp_path / "region_descriptions.json"
    path.write_text(path.read_text()[:-40])
    refused(visual_genome.read, tmp_path, "region_descriptions.json:item[1]", "not valid JSON")
    path.write_text('[{"id": 1, "regions": []}, 3]')
    refused(visual_genome.read, tmp_path, "region_descriptions.json:item[1]", "object was expected, found a number")


def test_numbers_near_and_far():
    numbers, rng = visual_genome._Numbers(), random.Random(0)
    seen = set()
    for number in [rng.randrange(600) for _ in range(900)] + [10**30, 10**30, 10**30 + 1]:
        assert numbers.add(number) == (number not in seen)
        seen.add(number)
