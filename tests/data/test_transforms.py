"""Image preprocessing, augmentation as a function of (seed, epoch, sample), and the order in which samples are dealt."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from transformers import ViltImageProcessor

from vldistill.data.datasets import RecordDataset
from vldistill.data.images import ImageFolder
from vldistill.data.loading import make_loader, pad_text
from vldistill.data.records import Record
from vldistill.data.samplers import CLEAN, CleanBatches, EpochBatches
from vldistill.data.sequences import EncodedText, PlainLayout
from vldistill.data.text import train_tokenizer
from vldistill.data.transforms import ImageTransform, add_noise, hash_key, normalise, patchify, unpatchify, vilt_size
from vldistill.data.visual import PatchInput, stack_patches
from vldistill.errors import InputError


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# Size.


@pytest.mark.parametrize(
    "width, height, expected",
    [
        (640, 480, (512, 384)),  # 480 -> 384 is times 0.8: 512, a multiple of 32
        (480, 640, (384, 512)),
        (500, 375, (512, 384)),
        (384, 384, (384, 384)),
        (640, 360, (608, 352)),  # 682 is over 639: both times 639 / 640, so 639 and 359.4, down to 608 and 352
        (1920, 1080, (608, 352)),
        (2000, 100, (608, 32)),  # 639 and 31.95: 32
        (10_000, 10, (608, 32)),  # 0.6 pixels high: at least one patch
        (7, 7, (384, 384)),
    ],
)
def test_known_sizes(width, height, expected):
    assert vilt_size(width, height, 384, 32) == expected


def exact_size(width: int, height: int, size: int, patch: int) -> tuple[int, int]:
    """The rule of the published code, in fractions."""
    shorter, longer = Fraction(size), Fraction(size * max(width, height), min(width, height))
    longest = int(1333 / 800 * size)
    if longer > longest:
        shorter, longer = shorter * longest / longer, Fraction(longest)
    short, long = (max(math.floor(side + Fraction(1, 2)) // patch * patch, patch) for side in (shorter, longer))
    return (short, long) if width <= height else (long, short)


@pytest.mark.parametrize("size, patch", [(384, 32), (224, 16), (64, 8)])
def test_sizes_are_the_exact_rule(size, patch):
    for width in range(1, 1000, 23):
        for height in range(1, 1000, 7):
            assert vilt_size(width, height, size, patch) == exact_size(width, height, size, patch), (width, height)


@pytest.mark.parametrize("width, height", [(640, 480), (333, 500), (640, 360), (427, 640), (300, 100), (51, 50)])
def test_sizes_are_the_librarys(width, height):
    library = ViltImageProcessor(size={"shortest_edge": 96}, size_divisor=16)
    theirs = library(picture(width, height), return_tensors="pt").pixel_values
    assert vilt_size(width, height, 96, 16) == (theirs.shape[3], theirs.shape[2])


def test_at_most_228_patches():
    sizes = {vilt_size(width, 1000, 384, 32) for width in range(100, 8000)}
    patches = {size: size[0] * size[1] // 32**2 for size in sizes}
    assert max(patches.values()) == 228
    assert {size for size, count in patches.items() if count == 228} == {(608, 384), (384, 608)}


# Pixels.


def test_resize_and_normalise():
    transform = ImageTransform(32, 8)
    pixels = transform.resize(picture(64, 48))
    assert pixels.shape == (32, 40, 3) and pixels.dtype == np.uint8  # 48 -> 32, 64 -> 42.7, down to 40
    resized = np.asarray(picture(64, 48).resize((40, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels, resized)
    assert np.array_equal(transform.resize(picture(40, 32)), np.asarray(picture(40, 32)))  # already of that size
    values = normalise(np.array([[[0, 255, 51]]], dtype=np.uint8))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [[[-1.0, 1.0, -0.6]]], atol=1e-6)  # 51 / 255 = 0.2; (0.2 - 0.5) / 0.5


def test_normalised_pixels_are_the_librarys():
    """Same resize, bicubic and scaling; the library resizes tensors, so single values may differ by a rounding."""
    image = picture(60, 45)
    theirs = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)(image, return_tensors="pt").pixel_values[0]
    ours = normalise(ImageTransform(32, 8).resize(image))
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0).numpy(), atol=2.5 * 2 / 255)


@pytest.mark.parametrize("width, height", [(40, 23), (23, 40), (12, 12), (7, 9), (131, 97)])
def test_the_cropped_square_is_clips(width, height):
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = CenterCrop(12)(Resize(12, interpolation=InterpolationMode.BICUBIC)(image))
    assert np.array_equal(ImageTransform(12, 4, square="crop").resize(image), np.asarray(theirs))


def test_patches_by_hand():
    """A 4 x 6 image whose pixel is (100 * row + column) in red, + 1000 in green, + 2000 in blue, in patches of 2."""
    grid = 100 * np.arange(4)[:, None] + np.arange(6)[None, :]
    pixels = np.stack([grid, grid + 1000, grid + 2000], axis=2)
    patches = patchify(pixels, 2)
    assert patches.shape == (6, 12)
    assert patches[0].tolist() == [0, 1, 100, 101, 1000, 1001, 1100, 1101, 2000, 2001, 2100, 2101]
    assert patches[:, 0].tolist() == [0, 2, 4, 200, 202, 204]  # raster order: a row of patches, then the next
    assert np.array_equal(unpatchify(patches, (2, 3), 2), pixels)


# Augmentation.


JITTER = ImageTransform(32, 8, augment="jitter", shift=2, noise=0.1)
PIXELS = np.asarray(picture(40, 32, 3))
OTHER_KEYS = [(1, 1, 2, 0), (0, 2, 2, 0), (0, 1, 3, 0), (0, 1, 2, 1)]  # another seed, epoch, sample, image than (0, 1, 2, 0)


def noisy(draw: int | None, deviation: float = 0.1) -> np.ndarray:
    values = np.zeros((1, 50, 60), dtype=np.float32)
    add_noise(values, [draw], deviation)
    return values[0]


def test_jitter_is_a_function_of_its_key():
    draw = JITTER.noise_draw((0, 1, 2, 0))
    first, noise = JITTER.shifted(PIXELS, (0, 1, 2, 0)), noisy(draw)
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(first, JITTER.shifted(PIXELS, (0, 1, 2, 0)))
    assert draw == JITTER.noise_draw((0, 1, 2, 0)) and np.array_equal(noise, noisy(draw))
    for other in OTHER_KEYS:
        assert not np.array_equal(noise, noisy(JITTER.noise_draw(other))), other
    for place in range(4):  # over many keys that differ in one place only, all shifts occur
        keys = [tuple(value if index == place else 0 for index in range(4)) for value in range(200)]
        assert len({JITTER.shifted(PIXELS, key).tobytes() for key in keys}) == 25


def test_shifts_move_the_picture_by_at_most_so_many_pixels():
    seen = set()
    for sample in range(200):
        moved = JITTER.shifted(PIXELS, (0, 0, sample, 0))
        assert moved.shape == PIXELS.shape and moved.dtype == np.uint8
        match = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(moved[2:-2, 2:-2], PIXELS[2 + down : 30 + down, 2 + right : 38 + right])
        ]
        assert len(match) == 1
        down, right = match[0]
        rows, columns = np.clip(np.arange(32) + down, 0, 31), np.clip(np.arange(40) + right, 0, 39)
        assert np.array_equal(moved, PIXELS[rows][:, columns])  # what moves in repeats the edge
        seen.add(match[0])
    assert len(seen) == 25


def test_noise_has_the_deviation_asked_for():
    noise = np.stack([noisy(JITTER.noise_draw((0, 0, sample, 0))) for sample in range(40)])
    assert abs(noise.std() - 0.2) < 0.01 and abs(noise.mean()) < 0.01  # 0.1 of the 0-1 range, which spans 2 here
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    assert (noisy(None) == 0).all()


def test_only_jitter_moves_or_disturbs():
    for transform in (ImageTransform(32, 8), ImageTransform(32, 8, augment="randaugment")):
        assert transform.shifted(PIXELS, (0, 1, 2, 0)) is PIXELS and transform.noise_draw((0, 1, 2, 0)) is None
    assert JITTER.noise_draw(None) is None
    assert ImageTransform(32, 8, augment="jitter", noise=0.0).noise_draw((0, 1, 2, 0)) is None
    assert ImageTransform(32, 8, augment="jitter", shift=0).shifted(PIXELS, (0, 1, 2, 0)) is PIXELS


def test_jitter_leaves_the_image_as_it_was():
    before = PIXELS.copy()
    JITTER.shifted(PIXELS, (0, 0, 0, 0))[:] = 0
    assert np.array_equal(before, PIXELS)


@pytest.mark.parametrize("augment", ["randaugment", "torchvision"])
def test_randaugment_is_a_function_of_its_key_and_leaves_the_global_generator_alone(augment):
    transform, image = ImageTransform(32, 8, augment=augment), picture(48, 40, 5)
    before = torch.get_rng_state()
    made = [np.asarray(transform.before_resize(image, (0, epoch, 0, 0))) for epoch in range(12)]
    assert torch.equal(before, torch.get_rng_state())
    again = np.asarray(transform.before_resize(image, (0, 3, 0, 0)))
    assert np.array_equal(made[3], again)
    assert len({value.tobytes() for value in made}) > 6
    for other in ("none", "jitter"):
        assert ImageTransform(32, 8, augment=other).before_resize(image, (0, 0, 0, 0)) is image


@pytest.mark.parametrize("augment", ["randaugment", "torchvision"])
def test_randaugment_leaves_the_gpus_generators_alone(monkeypatch, augment):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    ImageTransform(32, 8, augment=augment).before_resize(picture(48, 40), (0, 0, 0, 0))
    assert seeded == []


def test_hash_key():
    assert hash_key((0, 1)) == hash_key((0, 1))
    draws = [hash_key((0, epoch, sample)) for epoch in range(20) for sample in range(50)]
    assert len(set(draws)) == 1000 and all(0 <= draw < 2**63 for draw in draws)
    assert hash_key((-1, 0)) != hash_key((0, -1))
    assert abs(np.mean(np.array(draws, dtype=float)) / 2**62 - 1) < 0.1  # spread over the whole range


# Dealing samples.


def deal(count: int, batch: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1) -> list[list[tuple[int, int]]]:
    batches = EpochBatches(count, batch, seed=seed, rank=rank, world=world)
    batches.epoch = epoch
    dealt = list(batches)
    assert len(dealt) == len(batches)
    return dealt


@pytest.mark.parametrize("count, batch, world", [(24, 4, 2), (30, 4, 2), (31, 5, 3), (8, 4, 2), (100, 1, 4)])
def test_ranks_deal_disjoint_batches_of_the_one_rank_order(count, batch, world):
    ranks = [deal(count, batch, epoch=2, rank=rank, world=world) for rank in range(world)]
    whole = deal(count, batch * world, epoch=2)
    assert {len(dealt) for dealt in ranks} == {len(whole)} == {count // (batch * world)}
    for step, expected in enumerate(whole):
        parts = [ranks[rank][step] for rank in range(world)]
        assert all(len(part) == batch for part in parts)
        assert sorted(key for part in parts for key in part) == sorted(expected)  # as lists: nothing twice
    indices = [index for dealt in whole for _, index in dealt]
    assert len(set(indices)) == len(indices) == count // (batch * world) * batch * world
    assert {epoch for dealt in whole for epoch, _ in dealt} == {2}


def test_each_epoch_and_seed_has_an_order_of_its_own():
    def order(**fields):
        return [index for batch in deal(40, 4, **fields) for _, index in batch]

    assert order() == order() and sorted(order()) == list(range(40))
    assert len({tuple(order(epoch=epoch, seed=seed)) for epoch in range(3) for seed in range(3)}) == 9
    before = torch.get_rng_state()
    order(epoch=5)
    assert torch.equal(before, torch.get_rng_state())


def test_fewer_samples_than_a_batch_make_one_batch():
    assert sorted(deal(3, 8)[0]) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("count, batch, world", [(10, 4, 1), (10, 4, 2), (10, 3, 3), (2, 4, 3), (9, 3, 2), (1, 1, 1)])
def test_clean_batches_cover_everything_once(count, batch, world):
    ranks = [CleanBatches(count, batch, rank=rank, world=world) for rank in range(world)]
    keys = [key for rank in ranks for dealt in rank for key in dealt]
    assert sorted(keys) == [(CLEAN, index) for index in range(count)]
    assert all(1 <= len(dealt) <= batch for rank in ranks for dealt in rank)
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]
    one = [key for dealt in CleanBatches(count, batch) for key in dealt]
    assert one == sorted(one)  # in order


# Records to batches.


@pytest.fixture
def dataset(tmp_path):
    sizes = [(32, 32), (48, 32), (32, 40)]
    for row, size in enumerate(sizes):
        picture(*size, seed=row).save(tmp_path / f"{row}.png")
    texts = [["a", "red", "square"], ["two"], ["is", "there", "a", "dog", "?"]]
    records = [Record(str(row), "snli_ve", [f"{row}.png"], texts[row], label=row % 2) for row in range(3)]
    tokenizer = train_tokenizer(texts, 60)

    def make(memory=None, **transform):
        visual = PatchInput(ImageFolder(tmp_path), ImageTransform(32, 8, **transform), memory=memory)
        return RecordDataset(records, PlainLayout(tokenizer, 10), visual, pad_id=tokenizer.pad_id)

    return make


def test_a_batch_is_padded_to_its_longest(dataset):
    batch = next(iter(make_loader(dataset(), CleanBatches(3, 3))))
    assert batch.ids == ["0", "1", "2"] and batch.target.tolist() == [0, 1, 0] and len(batch) == 3
    image, text = batch.images[0], batch.text
    assert image.grids == [(4, 4), (4, 6), (5, 4)] and image.mask.sum(1).tolist() == [16, 24, 20]
    assert image.patches.shape == (3, 24, 192) and not image.uniform
    assert (image.patches[0, 16:] == 0).all() and (image.patches[~image.mask] == 0).all()
    assert (text.ids[~text.mask] == 0).all() and text.mask[2].all() and not text.mask[1].all()
    for row in range(3):
        [coded] = dataset()[(CLEAN, row)].texts
        assert text.words[row][text.mask[row]].tolist() == [-1 if word is None else word for word in coded.words]
        assert text.ids[row][text.mask[row]].tolist() == coded.ids


@pytest.mark.parametrize("augment", ["jitter", "randaugment", "torchvision"])
@pytest.mark.parametrize("memory", [True, False])
def test_augmentation_depends_on_epoch_and_sample_not_on_the_order_of_reading(dataset, augment, memory):
    first, second = dataset(augment=augment, memory=memory), dataset(augment=augment, memory=not memory)

    def read(examples, key):
        batch = make_loader(examples, [[key]])._loader.collate_fn([examples[key]])
        return batch.images[0].patches[0]

    forward = {key: read(first, key) for key in [(epoch, row) for epoch in (0, 1, 2) for row in (0, 1, 2)]}
    for key in reversed(forward):
        assert torch.equal(read(second, key), forward[key])
    for row in range(3):
        assert len({forward[(epoch, row)].numpy().tobytes() for epoch in range(3)}) > 1
    plain = dataset()
    for row in range(3):
        assert torch.equal(read(first, (CLEAN, row)), read(plain, (CLEAN, row)))


def test_a_sample_is_the_same_whatever_shares_its_batch(dataset):
    """Noise is added to a batch at a time; alone, among equals, or padded, a sample gets its own."""
    examples = dataset(augment="jitter")
    collate = make_loader(examples, [[(0, 0)]])._loader.collate_fn
    alone = [collate([examples[(1, row)]]).images[0].patches[0] for row in range(3)]
    padded = collate([examples[(1, row)] for row in range(3)]).images[0]
    for row in range(3):
        assert torch.equal(padded.patches[row][padded.mask[row]], alone[row])
    equals = collate([examples[(1, 1)], examples[(2, 1)], examples[(CLEAN, 1)]]).images[0]
    assert equals.mask.all() and torch.equal(equals.patches[0], alone[1])
    assert len({row.numpy().tobytes() for row in equals.patches}) == 3
    assert torch.equal(equals.patches[2], collate([dataset()[(0, 1)]]).images[0].patches[0])


def test_reading_a_sample_does_not_change_what_is_kept(dataset):
    examples = dataset(augment="jitter", memory=True)
    collate = make_loader(examples, [[(0, 0)]])._loader.collate_fn
    before = collate([examples[(CLEAN, 0)]]).images[0].patches.clone()
    for epoch in range(3):
        collate([examples[(epoch, 0)]]).images[0].patches.fill_(7.0)
    assert torch.equal(before, collate([examples[(CLEAN, 0)]]).images[0].patches)


def test_padding_helpers_by_hand():
    text = pad_text(
        [
            EncodedText([2, 7, 3], [None, 0, None], [0, 0, 1], [None, 5, None]),
            EncodedText([2, 3], [None] * 2, [0, 0], [None] * 2),
        ],
        9,
    )
    assert text.ids.tolist() == [[2, 7, 3], [2, 3, 9]] and text.mask.tolist() == [[True] * 3, [True, True, False]]
    assert text.words.tolist() == [[-1, 0, -1], [-1] * 3] and text.segments.tolist() == [[0, 0, 1], [0] * 3]
    assert text.tags.tolist() == [[-1, 5, -1], [-1] * 3]
    white, black = np.full((2, 3), 255, np.uint8), np.zeros((1, 3), np.uint8)
    image = stack_patches([white, black], [(1, 2), (1, 1)])
    assert image.patches.tolist() == [[[1] * 3, [1] * 3], [[-1] * 3, [0] * 3]]
    assert image.mask.tolist() == [[True, True], [True, False]]
    assert stack_patches([white] * 2, [(1, 2)] * 2).uniform


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_broke_since_is_one_error_in_the_main_process(dataset, tmp_path, workers):
    """A worker's own exception would come out as a traceback."""
    examples = dataset(augment="none")
    broken = tmp_path / examples.records[0].images[0]
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        list(make_loader(examples, CleanBatches(len(examples), 2), workers=workers))
    assert caught.value.where == str(broken) and "\n" not in str(caught.value)
