"""A small file that would be a huge picture: refused before it is drawn, which a process of its own shows by its memory."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from programs import programs

from vldistill.data.image_files import FORMATS, MAX_PIXELS, decode_image
from vldistill.errors import InputError

SIDE = 13_000
# Says by how many MB the most memory that it ever had grew while it opened an image, after one that is small.
PROBE = """
import sys
from pathlib import Path
from vldistill.data.image_files import check_images, open_image
from vldistill.errors import InputError, Problems
def most():  # of this program: getrusage would count its parent's, too
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10
folder, name = Path(sys.argv[1]), sys.argv[2]
open_image(folder / "small.png")
before, problems = most(), Problems()
try:
    open_image(folder / name)
except InputError as error:
    print(error)
check_images(folder, [name], problems, {})
print(len(problems.items), *problems.items, most() - before, sep="\\n")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Whole pictures of one bit a pixel: 2 x 2, 169 million pixels, and as many as are allowed."""
    place = tmp_path_factory.mktemp("bombs")
    for name, side in (("small", 2), ("bomb", SIDE), ("allowed", int(MAX_PIXELS**0.5))):
        Image.new("1", (side, side)).save(place / f"{name}.png")
    return place


def probed(folder: Path, name: str) -> list[str]:
    with programs() as start:
        out, err = start("-c", PROBE, folder, name).communicate(timeout=60)
    assert err == "", err
    return out.splitlines()


def test_a_bomb_is_refused_before_it_is_drawn(folder):
    assert (folder / "bomb.png").stat().st_size < 25_000
    told, problems, problem, grown = probed(folder, "bomb.png")
    assert "bomb.png: has 13,000 x 13,000 pixels, over the cap of 25,000,000" in told and problems == "1"
    assert "over the cap" in problem and int(grown) < 50
    # A picture that is drawn is seen in the memory: three bytes a pixel.
    problems, grown = probed(folder, "allowed.png")
    assert problems == "0" and int(grown) > MAX_PIXELS * 3 >> 20


def test_no_other_format_is_read():
    """Of all that the library writes, and would read if it were not told which."""
    Image.init()
    refused = []
    for kind in Image.SAVE:
        stream = io.BytesIO()
        try:
            Image.new("RGB", (64, 64)).save(stream, kind)
        except Exception:  # it lacks a part, or that mode
            continue
        if kind in (*FORMATS, "MPO"):  # the last is a JPEG with more behind it
            assert decode_image(stream.getvalue(), "x").size == (64, 64)
            continue
        with pytest.raises(InputError, match="is not an image"):
            decode_image(stream.getvalue(), "x")
        refused.append(kind)
    assert {"GIF", "TIFF", "EPS", "ICO", "PPM", "TGA"} < set(refused), refused
