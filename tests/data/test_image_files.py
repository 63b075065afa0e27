"""Opening and checking image files: conversions to RGB, refusals, and one pass over all."""

import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image, ImageFile
from raw_worlds import bomb, noise, picture

from vldistill.data.image_files import MAX_PIXELS, check_images, open_image
from vldistill.errors import InputError, Problems


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_formats_open_as_rgb(tmp_path, suffix):
    image = open_image(picture(tmp_path / f"x.{suffix}", color=(255, 0, 0)))
    assert image.mode == "RGB" and image.size == (8, 6)
    assert np.abs(np.asarray(image)[0, 0].astype(int) - (255, 0, 0)).max() <= 3


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_composited_on_white(tmp_path):
    for mode, color in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        Image.new(mode, (2, 2), color).save(tmp_path / "x.png")
        assert np.asarray(open_image(tmp_path / "x.png")).min() == 255
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png"))[0, 0, 0] == 127


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png"))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    image.save(tmp_path / "x.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "x.png"))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_cmyk_and_one_bit(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "x.jpg")
    assert open_image(tmp_path / "x.jpg").mode == "RGB"
    Image.new("1", (8, 8), 1).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png")).min() == 255


def test_refusals_name_the_path(tmp_path):
    empty, text, gif = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "x.gif"
    empty.touch()
    text.write_text("<html>404</html>")
    Image.new("P", (2, 2)).save(gif)
    os.mkfifo(tmp_path / "pipe.jpg")
    cases = {
        tmp_path / "none.jpg": "no such file", empty: "empty", text: "not an image", gif: "not an image",
        tmp_path: "folder", tmp_path / "pipe.jpg": "not a file", bomb(tmp_path / "bomb.png"): "over the cap",
        bomb(tmp_path / "bomb2.png", 30_000): "over the cap", tmp_path / "a\0b": "cannot be read",
    }  # fmt: skip
    for path, reason in cases.items():
        with pytest.raises(InputError, match=reason) as caught:
            open_image(path)
        assert caught.value.where == str(path) and "\n" not in str(caught.value).replace(str(path), "")


def test_cap_is_inclusive(tmp_path):
    side = int(MAX_PIXELS**0.5)
    Image.new("1", (side, side)).save(tmp_path / "x.png")
    problems = Problems()
    assert check_images(tmp_path, ["x.png"], problems, {}, decode=False)["x.png"].width == side and not problems


@pytest.mark.parametrize(
    ("suffix", "options"), [("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("webp", {}), ("bmp", {})]
)
def test_every_truncation_is_found(tmp_path, suffix, options):
    stream = io.BytesIO()
    noise().save(stream, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    data = stream.getvalue()
    names = []
    for i in range(1, 20):
        names.append(f"{i}.{suffix}")
        (tmp_path / names[-1]).write_bytes(data[: len(data) * i // 20])
    problems = Problems()
    assert not check_images(tmp_path, names, problems, {name: f"train.jsonl:{i}" for i, name in enumerate(names)})
    assert len(problems.items) == len(names) and problems.items[3].where == "train.jsonl:3"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(InputError):
        open_image(tmp_path / names[-1])


def test_check_returns_sha1_and_size_in_order(tmp_path):
    names = [f"{i:03d}.jpg" for i in range(70)]
    for name in names:
        picture(tmp_path / name, size=(5, 7))
    calls = []
    problems = Problems()
    found = check_images(tmp_path, names[::-1], problems, {}, threads=2, progress=lambda *done: calls.append(done))
    assert not problems and list(found) == names[::-1] and calls[-1] == (70, 70)
    info = found["000.jpg"]
    assert (info.width, info.height) == (5, 7)
    assert info.sha1 == hashlib.sha1((tmp_path / "000.jpg").read_bytes()).hexdigest()
    assert found == check_images(tmp_path, names[::-1], problems, {}, decode=False)


def test_headers_only_lets_a_truncated_body_pass(tmp_path):
    stream = io.BytesIO()
    noise().save(stream, "JPEG")
    (tmp_path / "x.jpg").write_bytes(stream.getvalue()[:-400])
    problems = Problems()
    assert check_images(tmp_path, ["x.jpg"], problems, {}, decode=False) and not problems
    assert not check_images(tmp_path, ["x.jpg"], problems, {}) and "truncated" in str(problems.items[0])


def test_paths_may_not_leave_the_root(tmp_path):
    outside = picture(tmp_path / "outside" / "x.png")
    root = tmp_path / "root"
    picture(root / "in.png")
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "fine.png").symlink_to(root / "in.png")
    bad = ["../outside/x.png", str(outside), "link.png", "folder/x.png", "a/../in.png", "", "a\0b", "line\nfeed.png"]
    problems = Problems()
    assert list(check_images(root, [*bad, "in.png", "fine.png"], problems, {})) == ["in.png", "fine.png"]
    assert len(problems.items) == len(bad) and all("\n" not in str(item) for item in problems.items)
    # Links are the user's own to trust; paths in the text are not.
    trusted = Problems()
    assert list(check_images(root, [*bad, "in.png"], trusted, {}, follow_links=True)) == ["link.png", "folder/x.png", "in.png"]
    assert len(trusted.items) == len(bad) - 2


def test_a_missing_folder_is_one_problem(tmp_path):
    problems = Problems()
    check_images(tmp_path, [f"train2014/{i}.jpg" for i in range(50)], problems, {"train2014/0.jpg": "q.json#1"})
    assert len(problems.items) == 1
    assert str(problems.items[0]).startswith("q.json#1: 50 images: no such folder")
