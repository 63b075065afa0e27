"""What identifies an image, wherever it lies and whatever it is called: the sha1 of its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vldistill.data.images import Images


class ImageDigests:
    """Looks up the 20 bytes of an image's sha1 by its path.

    recorded: what `prepare` wrote down of each image (JSONL); an image that is not in it is read.
    """

    def __init__(self, images: Images, recorded: Path):
        self._images, self._recorded = images, recorded
        self._known: dict[str, bytes] | None = None

    def __getitem__(self, path: str) -> bytes:
        """Raises InputError where the image cannot be read."""
        if self._known is None:
            self._known = self._read()
        if path not in self._known:
            self._known[path] = hashlib.sha1(self._images.read(path), usedforsecurity=False).digest()
        return self._known[path]

    def _read(self) -> dict[str, bytes]:
        if not self._recorded.exists():
            return {}
        with self._recorded.open(encoding="utf-8") as file:
            return {row["path"]: bytes.fromhex(row["sha1"]) for row in map(json.loads, file)}
