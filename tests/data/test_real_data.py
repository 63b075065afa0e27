"""Real data, where a folder with it is named by VLDISTILL_TEST_DATA."""

import os
from pathlib import Path

import pytest

from vldistill.data.prepare import prepare
from vldistill.data.sources.nlvr import Nlvr

ROOT = Path(os.environ.get("VLDISTILL_TEST_DATA", "not-given"))

CASES = [
    ("vqa", "easy-vqa", {}, {"train": 38575, "val": 4868}),
    ("nlvr", "nlvr", {"options": Nlvr(val_directories=("5",))}, {"train": 4956, "val": 978}),
    ("snli-ve", "snli-ve-sample", {}, {"test": 5}),
    ("nlvr2", "nlvr2-annotations", {"check_images": False}, {"val": 800}),
]


@pytest.mark.parametrize(("dataset", "folder", "arguments", "counts"), CASES)
def test_counts(tmp_path, dataset, folder, arguments, counts):
    if not (ROOT / folder).is_dir():
        pytest.skip("VLDISTILL_TEST_DATA does not hold it")
    manifest = prepare(dataset, ROOT / folder, tmp_path / "out", **arguments)
    assert {split: part["records"] for split, part in manifest["counts"].items()} == counts
    if dataset == "vqa":
        assert manifest["vocabulary"] == 13 and manifest["unanswerable"] == {"train": 0, "val": 0}
