"""The name by which an image's regions are found, whatever the data set or the feature files call it.

Feature files name images by number (`9`), by padded number (`coco_train2014_000000000009.npz`), or by the image's own name
(`nlvr2_dev-850-0-img0.npz`); records name them by path.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from vldistill.data.image_files import SUFFIXES

_SUFFIXES = {".npz", ".npy", ".json", *SUFFIXES}
_PREFIX = re.compile(r"(?:coco_(?:train|val|test)20\d\d|flickr30k|vg|nlvr2|vcr_(?:gt_)?(?:train|val|test))_", re.IGNORECASE)


def image_key(name: str) -> str:
    """A file name, path or id without folder, known suffix, data set and leading zeros.

    COCO's numbers are unique over its splits. Numbers of two data sets may clash, so that each has a store of its own.

    >>> [image_key(n) for n in ("train2014/COCO_train2014_000000000009.jpg", "coco_train2014_000000000009.npz", "9")]
    ['9', '9', '9']
    """
    path = PurePosixPath(name)
    # Not `stem`: the name may hold dots of its own, as VCR's do.
    base = path.name.removesuffix(path.suffix) if path.suffix.lower() in _SUFFIXES else path.name
    prefix = _PREFIX.match(base)
    base = base[prefix.end() :] if prefix else base
    return (base.lstrip("0") or "0") if base.isascii() and base.isdigit() else base
