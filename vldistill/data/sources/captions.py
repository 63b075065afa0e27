"""Image captions from the web: Conceptual Captions (`gcc`; Sharma et al., 2018) and SBU (Ordonez et al., 2011).

Both are published as captions with addresses, many of which are dead by now: a row without an image file is left out and
counted. Two layouts are read: the official lists beside what img2dataset made of them (`--output_format files`, where row r is
`00000/000000000.jpg` and so on), and ViLT's annotation files. Millions of rows are streamed: what is held is 8 bytes for each
image file.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from vldistill.data.records import Record, read_json
from vldistill.data.sources.rows import Row, add_file_fault, gives_up, iterate_array, kind_of, quoted
from vldistill.data.sources.table import Source, SourceData, SourceOptions, ToyLayout, wrong_layout
from vldistill.data.wording import split_words
from vldistill.errors import LINE, InputError, Problems

_LONGEST_LINE = 1 << 20
_PER_FOLDER = 10_000
# The official file, under the names it has had; img2dataset's folder; ViLT's file and folder.
_GCC = {
    "train": (("Train_GCC-training.tsv", "Train-GCC-training.tsv"), "training", "train_annot.json", "images_train"),
    "val": (
        ("Validation_GCC-1.1.0-Validation.tsv", "Validation-GCC-1.1.0-Validation.tsv"),
        "validation",
        "val_annot.json",
        "images_val",
    ),
}
# img2dataset reads the columns by name, so its manual has this line put above the official ones.
_HEADER = "caption\turl"
_SBU_URLS = "SBU_captioned_photo_dataset_urls.txt"
_SBU_CAPTIONS = "SBU_captioned_photo_dataset_captions.txt"


def read_gcc(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there. Raises InputError where none is; faults go to `problems`."""
    images = ImageFolders(root, problems)
    any_split = False
    for split, (names, folder, vilt_name, vilt_folder) in _GCC.items():
        path = next((root / name for name in names if (root / name).exists()), None)
        vilt = root / vilt_name
        any_split = any_split or path is not None or vilt.exists()
        if not options.wants(split):
            continue
        if path is not None:
            if vilt.exists():
                data.notes.append(f"{split}: {path.name} is read, {vilt_name} is not")
            _read_tsv(path, _Captions(path, split, images, folder, data, problems))
        elif vilt.exists():
            _read_annotations(vilt, _Captions(vilt, split, images, vilt_folder, data, problems))
    if not any_split:
        official, vilt = [split[0][0] for split in _GCC.values()], [split[2] for split in _GCC.values()]
        raise wrong_layout(root, "Conceptual Captions", [", ".join(official), ", ".join(vilt)])


def read_sbu(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads SBU, which is train only. Raises InputError where it is not there; faults go to `problems`."""
    images = ImageFolders(root, problems)
    paths = [root / _SBU_CAPTIONS, root / _SBU_URLS]
    there = [path for path in paths if path.exists()]
    vilt = root / "annot.json"
    if not there and not vilt.exists():
        raise wrong_layout(root, "SBU captions", [f"{_SBU_CAPTIONS} with {_SBU_URLS}", vilt.name])
    if not options.wants("train"):
        return
    if there:
        if vilt.exists():
            data.notes.append(f"train: {_SBU_CAPTIONS} is read, {vilt.name} is not")
        _read_pair(*paths, _Captions(paths[0], "train", images, "images", data, problems))
    else:
        _read_annotations(vilt, _Captions(vilt, "train", images, "images_train", data, problems))


class ImageFolders:
    """Which image files are there: a folder is listed once, when its first image is asked for."""

    def __init__(self, root: Path, problems: Problems):
        self.root, self.problems = root, problems
        self._names: dict[str, array[int]] = {}

    def __contains__(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = self._listed(folder)
        # A name is known by its hash. Two that share one are as good as impossible, and the check of the images would tell.
        key = hash(name)
        place = bisect_left(names, key)
        return place < len(names) and names[place] == key

    def _listed(self, folder: str) -> array[int]:
        names: array[int] = array("q")
        try:
            with os.scandir(self.root / folder) as entries:
                names.extend(hash(entry.name) for entry in entries)
        except PermissionError as error:
            self.problems.add(f"cannot be read: {error.strerror}", where=str(self.root / folder), hint="check its permissions")
        except (OSError, ValueError):
            pass  # no such folder: none of its images is there
        if names:
            import numpy as np  # no help waits for it

            np.frombuffer(names, np.int64).sort()
        return names


class _Captions:
    """The rows of a split: those whose image is there become records, the rest are counted."""

    def __init__(self, path: Path, split: str, images: ImageFolders, folder: str, data: SourceData, problems: Problems):
        self.path, self.split, self.images, self.folder, self.data, self.problems = path, split, images, folder, data, problems
        self.rows = self.added = 0
        self._before, self._gave_up = len(problems.items), False
        self._compared, self._misaligned = "", False

    def fault(self, message: str, where: str, hint: str) -> None:
        """Of a row."""
        self.problems.add(message, where=where, hint=hint, part=LINE)

    def whole(self, message: str, where: str, hint: str) -> None:
        """A fault of more than a row."""
        self.problems.add(message, where=where, hint=hint)

    @property
    def faults(self) -> int:
        return len(self.problems.items) - self._before

    def gives_up(self) -> bool:
        """Whether there were too many faults; says so once."""
        self._gave_up = self._gave_up or gives_up(self.path, self.problems, self.faults)
        return self._gave_up

    def add_from_list(self, row: int, caption: str, address: str, where: str) -> None:
        """A row of an official list. address: where the image was on the web, or its path."""
        if "://" not in address:
            self.add(row, caption, [address], where)
            return
        image = f"{self.folder}/{row // _PER_FOLDER:05d}/{row:09d}.jpg"
        if self.add(row, caption, [image], where):
            self._compare(image, address, where)

    def add(self, row: int, caption: str, places: list[str], where: str) -> bool:
        """Adds a row whose image is at one of `places`; False where it is at none, or the row is faulty."""
        self.rows += 1
        if not caption.strip():
            self.fault("the caption is empty", where, "give it a text, or drop the row with its image")
            return False
        for place in places:
            # The paths of millions of rows are plain; the few others are judged, and a faulty one is told.
            if place[:1] == "/" or ".." in place or "\0" in place:
                from vldistill.data.image_files import check_paths

                if not check_paths([place], self.problems, {place: where}):
                    return False
        image = next((place for place in places if place in self.images), None)
        if image is None:
            return False
        self.added += 1
        name = f"{self.split}-{row}"
        record = Record(id=name, task="caption", images=[image], text=split_words(caption), written=caption)
        self.data.add(self.split, record, where)
        return True

    def _compare(self, image: str, address: str, where: str) -> None:
        """Compares the first image of a folder with the address that img2dataset noted beside it: rows that are off by one
        would give every image the caption of another."""
        folder = image.rpartition("/")[0]
        if self._misaligned or folder == self._compared:
            return
        self._compared = folder
        note = PurePosixPath(image).with_suffix(".json").as_posix()
        try:
            value = read_json(self.images.root / note) if note in self.images else None
        except (InputError, OSError):
            return  # not img2dataset's
        noted = value.get("url") if isinstance(value, dict) else None
        if isinstance(noted, str) and noted.strip() != address.strip():
            self._misaligned = True
            message = f"{note} says that the image is from {quoted(noted)}, the row has {quoted(address)}"
            self.whole(message, where, "fetch the images again from this list, or take the list they are from")

    def finish(self, example: str) -> None:
        """Notes how many rows have no image. example: where the first image was looked for."""
        if not self.added and not self.faults:
            if self.rows:
                hint = f"put the images where {example} is the first"
                self.whole(f"none of its {self.rows:,} rows has an image", f"{self.path}:1", hint)
            else:
                self.whole("holds no row", f"{self.path}:1", "remove the file, or fetch it again")
        elif self.added < self.rows:
            self.data.notes.append(f"{self.split}: {self.rows - self.added:,} of {self.rows:,} rows have no image; left out")


def _read_tsv(path: Path, captions: _Captions) -> None:
    header = 0
    for number, line in _lines(path, captions):
        if number == 1 and line is not None and line.lower() == _HEADER:
            header = 1
            continue
        if line is None:
            continue
        columns, where = line.split("\t"), f"{path}:{number}"
        if len(columns) == 2 and columns[1].strip():
            captions.add_from_list(number - 1 - header, columns[0], columns[1], where)
        elif len(columns) == 2:
            captions.fault("the second column is empty", where, "give it the image's address or path")
        else:
            width = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            captions.fault(f"has {width}", where, "a row is the caption, a tab, and the image's address or path")
    captions.finish(f"{captions.folder}/00000/000000000.jpg")


def _read_pair(captions_path: Path, urls_path: Path, captions: _Captions) -> None:
    missing = [path for path in (captions_path, urls_path) if not path.exists()]
    if missing:
        return captions.whole("no such file", str(missing[0]), "put it there: captions and addresses are aligned by line")
    counts = [0, 0]
    for (number, caption), (other, address) in zip_longest(
        _lines(captions_path, captions), _lines(urls_path, captions), fillvalue=(0, None)
    ):
        counts = [number or counts[0], other or counts[1]]
        if caption is None or address is None:
            continue
        if address.strip():
            captions.add_from_list(number - 1, caption, address, f"{captions_path}:{number}")
        else:
            captions.fault("the line is empty", f"{urls_path}:{number}", "give it the image's address or path")
    if counts[0] != counts[1] and not captions.faults:
        message = f"has {counts[0]:,} lines, {urls_path.name} has {counts[1]:,}"
        captions.whole(message, f"{captions_path}:{min(counts) + 1}", "the files are aligned by line: fetch both again")
    captions.finish(f"{captions.folder}/00000/000000000.jpg")


def _lines(path: Path, captions: _Captions) -> Iterator[tuple[int, str | None]]:
    """Number and text of each line, None for one that is not UTF-8. Ends at a line without end, and when it is given up."""
    try:
        with path.open("rb") as file:
            # Only "\n" ends a line: a caption may hold U+2028 and the like.
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                text = None
                if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                    captions.whole("a line of over 1 MiB", f"{path}:{number}", "is it the right file?")
                    return
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    message = f"not UTF-8 at byte {error.start} of the line"
                    captions.fault(message, f"{path}:{number}", "save the file as UTF-8")
                yield number, text
                if captions.gives_up():
                    return
    except OSError as error:
        add_file_fault(path, error, captions.problems)


def _read_annotations(path: Path, captions: _Captions) -> None:
    """ViLT's `[[path, caption], ...]`. An image is known by its name, in the folder that its path or its first letters give."""
    example = ""
    for row, (where, entry) in enumerate(iterate_array(path, captions.problems)):
        if not isinstance(entry, list) or len(entry) != 2:
            actual = f"a list of {len(entry)}" if isinstance(entry, list) else kind_of(entry)
            captions.fault(f"found {actual}", where, "an entry is [path, caption]")
        else:
            fields = Row({"path": entry[0], "caption": entry[1]}, where, captions.problems)
            place, caption = fields.text("path"), fields.text("caption")
            if place is not None and place.endswith("/"):
                fields.fault(f"`path` {quoted(place)} names no file", "give it the image's path")
            if fields.good:
                parent, _, name = place.rpartition("/")
                folders = dict.fromkeys((parent.rpartition("/")[2] or name[:4], name[:4]))
                places = [f"{captions.folder}/{folder}/{name}" for folder in folders]
                example = example or places[0]
                captions.add(row, caption, places, where)
        if captions.gives_up():
            break
    captions.finish(example)


GCC = Source(
    about="Conceptual Captions: captions of images on the web",
    layout="its two .tsv files, images in training/ and validation/ as img2dataset writes them",
    read=read_gcc,
    task="caption",
    toy=ToyLayout("layouts:write_gcc", {"train": 500, "val": 50}),
)
SBU = Source(
    about="SBU: captions of photographs on the web",
    layout="SBU_captioned_photo_dataset_{urls,captions}.txt, images/ as img2dataset writes them",
    read=read_sbu,
    task="caption",
    toy=ToyLayout("layouts:write_sbu", {"train": 300}),
)
