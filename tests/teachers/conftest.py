"""The small teachers, made once, and a few pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_teachers import write_bert, write_clip, write_vit


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    write_vit(root / "vit")
    write_bert(root / "bert")
    write_clip(root / "clip")
    return root


@pytest.fixture
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30 + 4 * n, 40, 3), dtype=np.uint8)) for n in range(3)]
