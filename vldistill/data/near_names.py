"""What a name that is not there may have meant: the same in other capitals, in another Unicode form, with another ending, or with
the other slash."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

_SLASHES = "its folders are set apart by \\: write / instead"


def plain(name: str) -> str:
    """A name without what systems differ in: capitals and the Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


class NearNames:
    """The names of one folder."""

    def __init__(self, names: Iterable[str]):
        self._names = names

    @cached_property
    def _known(self) -> tuple[dict[str, str], dict[str, str]]:
        """The names by their plain form, whole and without ending."""
        return {plain(name): name for name in self._names}, {plain(PurePosixPath(name).stem): name for name in self._names}

    def hint(self, name: str) -> str | None:
        """How to mend a name that is not among them, where one is near."""
        if "\\" in name:
            return _SLASHES
        whole, stems = self._known
        near = whole.get(plain(name))
        if near is None:
            near = stems.get(plain(PurePosixPath(name).stem))
            return None if near is None else f"there is {near!r}, with another ending"
        form = unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name)
        return f"there is {near!r}, " + ("the same name in another Unicode form (NFC, NFD)" if form else "in other capitals")


def near_folder(root: Path, path: str) -> str | None:
    """How to mend an image's path whose folder is not there, where following it part by part finds what is near."""
    if "\\" in path:
        return _SLASHES
    place, parts = Path(root), []
    for part in PurePosixPath(path).parent.parts:
        try:
            there = [entry.name for entry in place.iterdir()]
        except OSError:
            return None
        near = part if part in there else {plain(name): name for name in there}.get(plain(part))
        if near is None:
            return None
        parts.append(near)
        place = place / near
    return f"there is the folder {'/'.join(parts)!r}, in other capitals or another Unicode form"
