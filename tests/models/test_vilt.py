"""The ViLT encoder against the library's own, its determinism, what it captures, and its halves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import ViltConfig, ViltModel

from vldistill.data.loading import pad_text
from vldistill.data.sequences import EncodedText
from vldistill.data.transforms import patchify
from vldistill.data.visual import stack_patches
from vldistill.models.base.checkpoint import fit_encoder, load_strict
from vldistill.models.base.outputs import Capture, QueryKey
from vldistill.models.vilt.model import EncoderConfig, ViltEncoder, with_cls
from vldistill.objectives.attention import cross_modal_attention_loss

PATCH = 8
CONFIG = EncoderConfig(
    vocab_size=40,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=32,
    patch_size=PATCH,
    max_position_embeddings=10,
    modality_type_vocab_size=3,
)
# (height, width) in patches: the table's own 4 x 4, and others that need it resized; all but the first are padded.
GRIDS = [(4, 4), (3, 5), (2, 3), (1, 6)]
LENGTHS = [9, 5, 3, 7]


def draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chw(pixels: np.ndarray) -> torch.Tensor:
    """[3, H, W] pixels as the network sees them: mean and standard deviation 0.5."""
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def pixels_of(grids: list[tuple[int, int]]) -> list[np.ndarray]:
    return [draw((rows * PATCH, columns * PATCH, 3), 10 + row) for row, (rows, columns) in enumerate(grids)]


def images_of(grids: list[tuple[int, int]], rows: slice = slice(None)):
    return stack_patches([patchify(pixels, PATCH) for pixels in pixels_of(grids)[rows]], grids[rows])


def texts_of(lengths: list[int], rows: slice = slice(None)):
    ids = [(np.random.default_rng(50 + row).integers(1, 40, length)).tolist() for row, length in enumerate(lengths)][rows]
    return pad_text([EncodedText(row, *([value] * len(row) for value in (None, 0, None))) for row in ids], 0)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that a misplaced token, mask or position shows; dropout stays configured but off (eval)."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        parameter.data = centre + 0.25 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def encoder() -> ViltEncoder:
    return randomised(ViltEncoder(CONFIG))


@pytest.fixture(scope="module")
def library(encoder) -> ViltModel:
    values = CONFIG.to_dict() | {"hidden_dropout_prob": 0.0}
    model = ViltModel(ViltConfig(**values)).eval()
    assert set(model.state_dict()) == set(encoder.state_dict())
    model.load_state_dict(encoder.state_dict(), strict=True)
    return model


def library_forward(model: ViltModel, text, grids: list[tuple[int, int]], *, place: int):
    """The library's call: pixels padded to the batch's canvas, with a pixel mask."""
    height, width = (max(side) * PATCH for side in zip(*grids, strict=True))
    values, mask = torch.zeros(len(grids), 3, height, width), torch.zeros(len(grids), height, width, dtype=torch.long)
    for row, pixels in enumerate(pixels_of(grids)):
        values[row, :, : pixels.shape[0], : pixels.shape[1]] = chw(pixels)
        mask[row, : pixels.shape[0], : pixels.shape[1]] = 1
    return model(
        input_ids=text.ids, attention_mask=text.mask.long(), pixel_values=values, pixel_mask=mask, image_token_type_idx=place + 1
    )


@torch.no_grad()
@pytest.mark.parametrize("row", range(len(GRIDS)))
def test_rows_of_a_padded_batch_do_not_see_its_padding(encoder, row):
    """One image of a batch of several sizes has one grid, and the padding of the whole batch beside it."""
    alone, some = images_of(GRIDS, slice(row, row + 1)), images_of(GRIDS)[torch.tensor([row])]
    assert some.uniform == bool(some.mask.all()) and alone.uniform
    count = 1 + GRIDS[row][0] * GRIDS[row][1]
    text = texts_of(LENGTHS, slice(row, row + 1))
    length = text.ids.shape[1]
    torch.testing.assert_close(
        encoder.encode_pair(text, some, 0).hidden[:, : length + count],
        encoder.encode_pair(text, alone, 0).hidden,
        atol=1e-5,
        rtol=0,
    )
    pooled = [encoder.pool(encoder.encode_image(images, 0).hidden) for images in (some, alone)]
    torch.testing.assert_close(*pooled, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("grids", [GRIDS, [(4, 4)] * 3, [(5, 3)] * 2, [(2, 8), (8, 2)]], ids=str)
def test_matches_the_library_up_to_its_patch_order(encoder, library, grids, place):
    text = texts_of(LENGTHS[: len(grids)])
    theirs = library_forward(library, text, grids, place=place)
    ours = encoder.encode_pair(text, images_of(grids), place).hidden
    length = text.ids.shape[1]
    torch.testing.assert_close(ours[:, :length], theirs.last_hidden_state[:, :length], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.pool(ours), theirs.pooler_output, atol=1e-5, rtol=0)
    for row, (rows, columns) in enumerate(grids):
        count = rows * columns  # the library puts a row's real patches first, in an order of its own
        mine, other = (states[row, length : length + 1 + count] for states in (ours, theirs.last_hidden_state))
        torch.testing.assert_close(mine[0], other[0], atol=1e-5, rtol=0)
        distances = torch.cdist(mine[1:], other[1:], p=float("inf"))
        assert distances.min(dim=1).values.max() < 1e-5
        assert sorted(distances.argmin(dim=1).tolist()) == list(range(count))  # each of theirs matched once
        if count > 1:
            apart = torch.cdist(mine[1:], mine[1:], p=float("inf")) + 9 * torch.eye(count)
            assert apart.min() > 1e-2  # so that the matching means something


@torch.no_grad()
def test_an_evaluation_pass_repeats_to_the_bit_and_leaves_the_global_generator_alone(encoder, library):
    text, image = texts_of(LENGTHS), images_of(GRIDS)
    before = torch.get_rng_state()
    first = encoder.encode_pair(text, image).hidden
    second = encoder.encode_pair(text, image).hidden
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    library_forward(library, text, GRIDS, place=0)
    assert not torch.equal(before, torch.get_rng_state())  # what the library does, and why the encoder is our own


@torch.no_grad()
def test_training_mode_has_dropout(encoder):
    text, image = texts_of(LENGTHS), images_of(GRIDS)
    encoder.train()
    try:
        assert not torch.allclose(encoder.encode_pair(text, image).hidden, encoder.encode_pair(text, image).hidden, atol=1e-3)
    finally:
        encoder.eval()


@torch.no_grad()
@pytest.mark.parametrize("half", ["pair", "text", "image"])
def test_a_row_alone_is_the_row_in_a_padded_batch(encoder, half):
    def encode(text, image):
        if half == "pair":
            return encoder.encode_pair(text, image).hidden
        return encoder.encode_text(text).hidden if half == "text" else encoder.encode_image(image, 1).hidden

    text, image = texts_of(LENGTHS), images_of(GRIDS)
    together = encode(text, image)
    valid = {"pair": torch.cat([text.mask, with_cls(image.mask)], dim=1), "text": text.mask, "image": with_cls(image.mask)}[half]
    assert not valid.all()
    for row in range(len(GRIDS)):
        only = slice(row, row + 1)
        alone = encode(texts_of(LENGTHS, only), images_of(GRIDS, only))
        torch.testing.assert_close(together[row][valid[row]], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_where_nothing_is_padded_a_batch_is_its_rows_alone(encoder):
    grids, lengths = [(3, 4)] * 3, [6, 6, 6]
    text, image = texts_of(lengths), images_of(grids)
    assert image.uniform and image.mask.all() and text.mask.all()
    together = encoder.encode_pair(text, image).hidden
    unmasked = encoder.encode_image(image).hidden  # one grid in the batch: no mask is built
    masked = encoder._encode(encoder.embeddings.image(image, 0), with_cls(image.mask), Capture()).hidden
    torch.testing.assert_close(unmasked, masked, atol=1e-6, rtol=0)
    for row in range(3):
        only = slice(row, row + 1)
        assert torch.equal(encoder.encode_pair(texts_of(lengths, only), images_of(grids, only)).hidden[0], together[row])
        assert torch.equal(encoder.encode_image(images_of(grids, only)).hidden[0], unmasked[row])


@torch.no_grad()
def test_equal_counts_of_different_grids_keep_their_own_positions(encoder):
    """Two grids of six patches need no padding, but each has its own position embeddings."""
    pixels = draw((6 * PATCH, PATCH, 3), 4)
    patches = patchify(pixels, PATCH)
    both = encoder.encode_image(stack_patches([patches, patches], [(2, 3), (3, 2)])).hidden
    for row, grid in enumerate([(2, 3), (3, 2)]):
        torch.testing.assert_close(both[row], encoder.encode_image(stack_patches([patches], [grid])).hidden[0], atol=1e-5, rtol=0)
    assert (both[0] - both[1]).abs().max() > 1e-2


@torch.no_grad()
def test_padded_pixels_and_tokens_are_not_seen(encoder):
    text, image = texts_of(LENGTHS), images_of(GRIDS)
    clean = encoder.encode_pair(text, image).hidden
    valid = torch.cat([text.mask, with_cls(image.mask)], dim=1)
    text.ids[~text.mask] = 7
    image.patches[~image.mask] = 50.0
    dirty = encoder.encode_pair(text, image).hidden
    torch.testing.assert_close(clean[valid], dirty[valid], atol=1e-6, rtol=0)


def self_divergence(run) -> float:
    """KL of the cross-modal attention of two passes over the same input."""
    text, image = texts_of(LENGTHS), images_of(GRIDS)
    sides = []
    for _ in range(2):
        query, key = run(text, image)
        length = text.ids.shape[1]
        sides.append(QueryKey(query[:, :, :length], key[:, :, :length], query[:, :, length:], key[:, :, length:]))
    return cross_modal_attention_loss(*sides, text.mask, with_cls(image.mask), kl="forward").item()


@torch.no_grad()
def test_attention_of_two_passes_is_aligned(encoder):
    def ours(text, image):
        return encoder.encode_pair(text, image, capture=Capture(qk=(3,))).qk[3]

    def shuffled(text, image):
        query, key = ours(text, image)
        order = torch.randperm(image.patches.shape[1]) + text.ids.shape[1] + 1
        order = torch.cat([torch.arange(text.ids.shape[1] + 1), order])
        return query[:, :, order], key[:, :, order]

    assert abs(self_divergence(ours)) < 1e-9
    assert self_divergence(shuffled) > 1e-2  # what an order drawn at each pass would cost


@torch.no_grad()
def test_only_the_layers_asked_for_are_kept(encoder):
    encoded = encoder.encode_pair(texts_of(LENGTHS), images_of(GRIDS), 0, Capture(qk=(2,), hidden=(1, 3)))
    assert set(encoded.qk) == {2} and set(encoded.layers) == {1, 3}
    torch.testing.assert_close(encoder.layernorm(encoded.layers[3]), encoded.hidden)
    nothing = encoder.encode_pair(texts_of(LENGTHS), images_of(GRIDS))
    assert nothing.qk == {} and nothing.layers == {}


@torch.no_grad()
def test_captured_projections_equal_an_independent_computation(encoder):
    """Last layer: norm of its input (the layer before's output), times the weights, split into heads; in NumPy."""
    encoded = encoder.encode_pair(texts_of(LENGTHS), images_of(GRIDS), 0, Capture(qk=(3,), hidden=(2,)))
    weights = {name: value.double().numpy() for name, value in encoder.encoder.layer[2].state_dict().items()}
    states = encoded.layers[2].double().numpy()
    centred = states - states.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + CONFIG.layer_norm_eps)
    normal = normal * weights["layernorm_before.weight"] + weights["layernorm_before.bias"]
    for found, part in zip(encoded.qk[3], ("query", "key"), strict=True):
        flat = normal @ weights[f"attention.attention.{part}.weight"].T + weights[f"attention.attention.{part}.bias"]
        for head in range(4):
            np.testing.assert_allclose(found[:, head].numpy(), flat[:, :, head * 8 : head * 8 + 8], atol=2e-5)


# What each half has no use for.
OTHER_HALF = {
    "text": ["cls_token", "position_embeddings", "patch_embeddings.projection.weight", "patch_embeddings.projection.bias"],
    "image": [
        f"text_embeddings.{name}"
        for name in (
            "word_embeddings.weight",
            "position_embeddings.weight",
            "token_type_embeddings.weight",
            "LayerNorm.weight",
            "LayerNorm.bias",
        )
    ],
}


@torch.no_grad()
@pytest.mark.parametrize("half", ["text", "image"])
def test_a_half_is_the_whole_on_one_modality(encoder, half):
    tower = ViltEncoder(CONFIG, text=half == "text", image=half == "image")
    fitted = fit_encoder(encoder.state_dict(), tower)
    load_strict(tower, fitted, "test")
    tower.eval()
    lost = set(encoder.state_dict()) - set(tower.state_dict())
    assert lost == {f"embeddings.{name}" for name in OTHER_HALF[half]}
    if half == "text":
        text = texts_of(LENGTHS)
        assert torch.equal(tower.encode_text(text).hidden, encoder.encode_text(text).hidden)
    else:
        image = images_of(GRIDS)
        assert torch.equal(tower.encode_image(image, 1).hidden, encoder.encode_image(image, 1).hidden)


@torch.no_grad()
def test_a_text_alone_is_the_pair_with_a_hidden_image(encoder):
    """Masking every image token of a pair leaves the text-only pass, so a tower starts where the fusion encoder is."""
    text, image = texts_of(LENGTHS), images_of(GRIDS)
    states = torch.cat([encoder.embeddings.text(text.ids), encoder.embeddings.image(image, 0)], dim=1)
    mask = torch.cat([text.mask, torch.zeros_like(with_cls(image.mask))], dim=1)
    hidden = encoder._encode(states, mask, Capture()).hidden[:, : text.ids.shape[1]]
    torch.testing.assert_close(encoder.encode_text(text).hidden[text.mask], hidden[text.mask], atol=1e-5, rtol=0)


@torch.no_grad()
def test_patches_times_the_weight_are_the_convolution(encoder):
    pixels = draw((3 * PATCH, 5 * PATCH, 3), 9)
    projection = encoder.embeddings.patch_embeddings.projection
    convolved = projection(chw(pixels)[None])[0].flatten(1).T
    batch = stack_patches([patchify(pixels, PATCH)], [(3, 5)])
    linear = F.linear(batch.patches[0], projection.weight.flatten(1), projection.bias)
    torch.testing.assert_close(linear, convolved, atol=1e-5, rtol=0)
    with_positions = encoder.embeddings.image(batch, 1)
    table = encoder.embeddings.position_embeddings[:, 1:].transpose(1, 2).reshape(1, 32, 4, 4)
    positions = F.interpolate(table, size=(3, 5), mode="bilinear", align_corners=True)[0].flatten(1).T
    expected = convolved + positions + encoder.embeddings.token_type_embeddings.weight[2]
    torch.testing.assert_close(with_positions[0, 1:], expected, atol=1e-5, rtol=0)


def test_fresh_weights():
    """BERT's initialisation, in proportion to 1 / sqrt(width): 0.02 at 768, so 0.0566 at 96."""
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=200,
        hidden_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=200,
        image_size=64,
        patch_size=8,
    )
    for name, value in ViltEncoder(config).state_dict().items():
        if "norm" in name.lower() and name.endswith("weight"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        elif value.numel() > 1000:
            assert value.std().item() == pytest.approx(0.02 * (768 / 96) ** 0.5, rel=0.1), name
            assert abs(value.mean().item()) < 0.006, name
