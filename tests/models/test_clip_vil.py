"""CLIP-ViL against open_clip's own tower and the library's BERT, row by row; what learns; where its weights come from."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from asked import asked, sizes
from safetensors.torch import load_file, save_file
from test_region_students import HEADS, LAYERS, SIZES, WORDS, D, library_bert, linear, norm, scrambled
from tiny_teachers import write_bert, write_grid_clip
from torch import nn

from vldistill.data.batch import Batch, TextBatch
from vldistill.data.text import train_tokenizer
from vldistill.data.visual import stack_letterboxes
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import read_checkpoint, save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student, load_student, new_from_scratch
from vldistill.models.clip_vil.model import ClipVil, ClipVilConfig, GridTower, read_tower

SHORT, LONG, CELLS = 64, 96, 6
TEXTS = (5, 3, 7, 4)  # lengths of each row
UPRIGHT = (False, True, True, False)
LABELS = ["no", "yes", "maybe"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folders of a small ResNet CLIP and of a small ViT CLIP."""
    folder = tmp_path_factory.mktemp("clips")
    return {"resnet": write_grid_clip(folder / "resnet"), "vit": write_grid_clip(folder / "vit", vit=True)}


def config(clips, **changed) -> ClipVilConfig:
    tower = read_tower(str(clips["resnet"]), None, SHORT, LONG)
    return ClipVilConfig(**SIZES, max_position_embeddings=20, **tower.fields, long_side=LONG, **changed)


@pytest.fixture(scope="module")
def model(clips) -> ClipVil:
    torch.manual_seed(0)
    return scrambled(ClipVil(config(clips), classes=1, target="choice"), 2)


def canvases(count: int) -> list[np.ndarray]:
    draw = np.random.default_rng(1)
    shapes = [(LONG, SHORT, 3) if stands else (SHORT, LONG, 3) for stands in UPRIGHT[:count]]
    return [draw.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def batch(choices: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(1)
    records = len(TEXTS) // choices
    mask = torch.arange(max(TEXTS)) < torch.tensor(TEXTS)[:, None]
    ids = torch.randint(1, WORDS, mask.shape, generator=draw).masked_fill(~mask, 0)
    segments = torch.randint(0, 3, mask.shape, generator=draw).masked_fill(~mask, 0)
    text = TextBatch(ids, mask, torch.full_like(ids, -1), segments, torch.full_like(ids, -1))
    return Batch([str(row) for row in range(records)], text, [stack_letterboxes(canvases(records))], torch.arange(records) % 2)


def library_grid(visual: nn.Module, canvas: np.ndarray) -> torch.Tensor:
    """[C, h, w]: what open_clip's tower hands to its pooling."""
    visual.attnpool = nn.Identity()
    pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255
    mean, std = torch.tensor([0.48, 0.45, 0.4]), torch.tensor([0.26, 0.26, 0.27])
    return visual.eval()((pixels - mean[:, None, None]) / std[:, None, None])[0]


# --- the grid ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1])
def test_the_grid_is_what_open_clip_pools(clips, place):
    read = read_tower(str(clips["resnet"]), None, SHORT, LONG)
    tower = GridTower(config(clips)).eval()
    tower.visual.load_state_dict(read.weights)
    canvas = canvases(2)[place]
    found = tower(torch.from_numpy(canvas).permute(2, 0, 1)[None])[0]
    expected = library_grid(open_clip.create_model(f"local-dir:{clips['resnet']}").visual, canvas)
    assert found.shape == ((128, 3, 2) if place else (128, 2, 3)) and expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert not any(name.startswith("visual.attnpool") for name, _ in tower.named_parameters())


@torch.no_grad()
def test_the_grid_of_a_vit_is_its_tokens_without_cls(clips):
    read = read_tower(str(clips["vit"]), None, 24, 24)
    assert read.fields["region_size"] == 64 and read.fields["quick_gelu"]
    tower = GridTower(ClipVilConfig(**read.fields, long_side=24)).eval()
    tower.visual.load_state_dict(read.weights)
    pixels = torch.randint(0, 256, (2, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = open_clip.create_model(f"local-dir:{clips['vit']}").visual.eval()
    whole.output_tokens = True
    _, tokens = whole((pixels / 255 - tower.mean) / tower.std)
    torch.testing.assert_close(tower(pixels).flatten(2).transpose(1, 2), tokens, atol=1e-4, rtol=0)
    # On a larger canvas its table of positions is resized.
    larger = read_tower(str(clips["vit"]), None, 40, 40)
    assert larger.weights["positional_embedding"].shape == (26, 64) and larger.fields["tower"]["image_size"] == 40


@pytest.mark.parametrize(
    "kind, sides, part",
    [
        ("resnet", (64, 90), "does not fit cells of 32"),
        ("resnet", (96, 64), "does not fit cells of 32"),
        ("vit", (24, 32), "is not square"),
        ("vit", (20, 20), "does not fit cells of 8"),
    ],
)
def test_a_canvas_that_does_not_fit_is_refused(clips, kind, sides, part):
    with pytest.raises(InputError, match=part):
        read_tower(str(clips[kind]), None, *sides)


@pytest.mark.parametrize(
    "model, weights, part",
    [
        ("RN50x5", "random", "is no model of open_clip"),
        ("RN50x4", "opanai", "knows no weights 'opanai'"),
        ("ViT-B-16-SigLIP", "random", "no image network of CLIP's own"),
        ("coca_ViT-B-32", "random", "no image network of CLIP's own"),
    ],
)
def test_what_is_no_clip_is_refused(model, weights, part):
    with pytest.raises(InputError, match=part):
        read_tower(model, weights, 384, 640)


def test_a_folder_without_weights_is_refused_unless_they_are_random(clips, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((clips["resnet"] / "open_clip_config.json").read_text())
    with pytest.raises(InputError, match="holds none of"):
        read_tower(str(tmp_path), None, SHORT, LONG)
    with pytest.raises(InputError, match=r"has weights of its own, openai beside it would be ignored"):
        read_tower(str(clips["resnet"]), "openai", SHORT, LONG)
    read = read_tower(str(tmp_path), "random", SHORT, LONG)
    assert read.weights is None and read.fields["image_mean"] == [0.48, 0.45, 0.4]


# --- the whole -----------------------------------------------------------------------------------------------------------


def row_states(state, visual: nn.Module, given: Batch, row: int, canvas: np.ndarray) -> torch.Tensor:
    """[1, t + N, D] embeddings of one row without padding; visual: open_clip's tower with the student's weights."""
    text, length = given.text, TEXTS[row]
    words = state["bert.embeddings.word_embeddings.weight"][text.ids[row, :length]]
    places = state["bert.embeddings.position_embeddings.weight"][:length]
    kinds = state["bert.embeddings.token_type_embeddings.weight"][text.segments[row, :length].clamp(max=1)]
    first = norm(words + places + kinds, state, "bert.embeddings.LayerNorm")
    grid, across, down = (
        library_grid(visual, canvas),
        *(state[f"bert.encoder.visual_pos.{axis}_position_embedding.weight"] for axis in "xy"),
    )
    cells = torch.stack([grid[:, i, j] + across[i] + down[j] for i in range(grid.shape[1]) for j in range(grid.shape[2])])
    second = norm(linear(cells, state, "bert.encoder.visn_fc.visn_fc"), state, "bert.encoder.visn_fc.visn_layer_norm")
    return torch.cat([first, second])[None]


@torch.no_grad()
@pytest.mark.parametrize("choices", [1, 2])
def test_agrees_with_the_librarys_bert_on_rows_without_padding(model, clips, choices):
    state, given = model.state_dict(), batch(choices)
    bert = {name: value for name, value in state.items() if not name.startswith(("bert.encoder.vis", "classifier."))}
    library = library_bert(bert, "bert.")
    visual = open_clip.create_model(f"local-dir:{clips['resnet']}").visual
    prefix = "bert.encoder.visual_model.visual."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    assert visual.load_state_dict(own, strict=False).unexpected_keys == []
    output = model(given, Capture(hidden=(1, LAYERS), qk=(1,)))
    view, seen, logits = output.views[0], canvases(len(given)), []
    for row, length in enumerate(TEXTS):
        found = [row_states(state, visual, given, row, seen[row // choices])]
        for layer in library.encoder.layer:
            after = layer(found[-1])
            found.append(after[0] if isinstance(after, tuple) else after)
        for layer in (1, LAYERS):
            text, image = view.hidden[layer]
            torch.testing.assert_close(text[row, :length], found[layer][0, :length], atol=1e-4, rtol=0)
            torch.testing.assert_close(image[row], found[layer][0, length:], atol=1e-4, rtol=0)
        query = model.bert.encoder.layer[0].attention.self.query(found[0])[0].unflatten(-1, (HEADS, -1)).transpose(0, 1)
        torch.testing.assert_close(view.qk[1].image_query[row], query[:, length:], atol=1e-4, rtol=0)
        logits.append(model.classifier(linear(found[-1][0, 0], state, "bert.pooler.dense")))
    torch.testing.assert_close(output.logits, torch.stack(logits).view(output.logits.shape), atol=1e-4, rtol=0)
    assert output.logits.shape == ((4, 1) if choices == 1 else (2, 2))
    assert view.visual.shape == (4, CELLS) and view.visual.all() and view.image_mask.all()


@torch.no_grad()
def test_a_row_alone_says_what_it_says_in_company(model):
    given = batch()
    together = model(given).logits
    for row, canvas in enumerate(canvases(len(TEXTS))):
        length = torch.tensor([row])
        alone = Batch([str(row)], given.text[length], [stack_letterboxes([canvas])], None)
        torch.testing.assert_close(model(alone).logits[0], together[row], atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_image_is_seen_once_and_goes_to_its_rows(model):
    """ADVL's step 1 asks for every image several times."""
    given, shapes = batch(), []
    handle = model.bert.encoder.visual_model.register_forward_hook(lambda module, args, out: shapes.append(args[0].shape[0]))
    order = torch.tensor([3, 0, 1, 1])
    mixed = model(replace(given, images=[given.images[0][order]])).logits
    handle.remove()
    assert sum(shapes) == 4
    swapped = stack_letterboxes([canvases(4)[place] for place in order])
    torch.testing.assert_close(mixed, model(replace(given, images=[swapped])).logits, atol=1e-5, rtol=0)


# --- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen, statistics", [(False, True), (False, False), (True, True)])
def test_what_learns(clips, frozen, statistics):
    torch.manual_seed(0)
    student = scrambled(ClipVil(config(clips, frozen=frozen, batch_statistics=statistics), classes=2, target="label"), 2)
    assert student.train().bert.encoder.visual_model.visual.bn1.training == (statistics and not frozen)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1)
    given = batch()
    nn.functional.cross_entropy(student(given).logits, given.target).backward()
    assert frozen or all(p.grad is not None for p in student.parameters())  # else training in several processes would stop
    optimizer.step()
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    tower = {name for name in before if "visual_model" in name}
    counts = {name for name in tower if "running" in name or "num_batches" in name}
    assert {"classifier.0.weight", "bert.encoder.visn_fc.visn_fc.weight", "bert.encoder.layer.0.output.dense.weight"} <= moved
    assert ("bert.encoder.visual_model.visual.conv1.weight" in moved) == (not frozen)
    assert bool(moved & counts) == (statistics and not frozen)
    assert not frozen or not moved & tower


# --- weights -------------------------------------------------------------------------------------------------------------


def wanted(model: str | None, weights: str | None = None, **changed):
    clip = {"model": model, "weights": weights, "frozen": changed.pop("frozen", False)}
    own = {"clip": clip, "sizes": sizes(changed.pop("layers", 2), D, HEADS)}
    fields = {"image_size": SHORT, "long_side": LONG, "max_length": 12, "dropout": 0.0} | changed
    return asked("clip_vil", "snli_ve", 1, LABELS, own=own, **fields)


@pytest.fixture
def bert(tmp_path):
    return write_bert(tmp_path / "bert")


def same(state, other, prefix: str) -> bool:
    names = [name for name in other if name.startswith(prefix)]
    return bool(names) and all(torch.equal(state[name], other[name]) for name in names)


@pytest.mark.parametrize("old", [False, True])
def test_starts_from_berts_and_clips_weights(clips, bert, old):
    file = bert / "model.safetensors"
    given = load_file(file)
    if old:  # as published: below `bert.`, with its heads and the old names of norms
        renamed = {
            re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)): value
            for name, value in given.items()
        }
        published = {f"bert.{name}": value for name, value in renamed.items()}
        save_file(published | {"cls.predictions.bias": torch.zeros(3)}, file)
    student, spec, tokenizer = init_student(str(bert), wanted(str(clips["resnet"])), keep_head=False)
    state = student.state_dict()
    assert same(state, {f"bert.{name}": value for name, value in given.items()}, "bert.")
    tower = load_file(clips["resnet"] / "open_clip_model.safetensors")
    seen = {name for name in tower if name.startswith("visual.") and "attnpool" not in name}
    assert all(torch.equal(state[f"bert.encoder.visual_model.{name}"], tower[name]) for name in seen) and len(seen) > 50
    assert (spec.encoder.hidden_size, spec.encoder.region_size, spec.image_size, spec.encoder.long_side) == (16, 128, SHORT, LONG)
    assert len(tokenizer.vocabulary) == spec.encoder.vocab_size


@pytest.mark.parametrize(
    "change, part",
    [
        (
            lambda weights: weights.update({"encoder.layer.7.output.dense.bias": torch.zeros(16)}),
            "unexpected bert.encoder.layer.7",
        ),
        (lambda weights: weights.pop("pooler.dense.bias"), "missing bert.pooler.dense.bias"),
        (lambda weights: weights.update({"pooler.dense.bias": torch.zeros(3)}), "bert.pooler.dense.bias has shape"),
    ],
)
def test_a_bert_with_other_keys_is_refused(clips, bert, change, part):
    weights = load_file(bert / "model.safetensors")
    change(weights)
    save_file(weights, bert / "model.safetensors")
    with pytest.raises(InputError, match=part):
        init_student(str(bert), wanted(str(clips["resnet"])), keep_head=False)


def test_a_clip_is_needed_and_text_must_fit(clips, bert):
    with pytest.raises(InputError, match="needs CLIP's image network"):
        init_student(str(bert), wanted(None), keep_head=False)
    with pytest.raises(InputError, match=r"has 40 text positions, text\.max_length is 41"):
        init_student(str(bert), wanted(str(clips["resnet"]), max_length=41), keep_head=False)


def test_a_model_folder_keeps_all_and_is_continued(clips, tmp_path):
    tokenizer = train_tokenizer([["is", "there", "a", "red", "circle", "?"]], 40)
    torch.manual_seed(1)
    made, spec, _ = new_from_scratch(wanted(str(clips["resnet"])), tokenizer)
    made.bert.encoder.visual_model.train().visual.bn1.running_mean += 1
    save_model(tmp_path / "model", made, spec, tokenizer)
    again, found, _ = load_student(str(tmp_path / "model"))
    assert found == spec == read_checkpoint(str(tmp_path / "model")).spec and not again.training
    assert same(again.state_dict(), made.state_dict(), "")
    further, found, _ = init_student(str(tmp_path / "model"), wanted(None, frozen=True), keep_head=True)
    assert same(further.state_dict(), made.state_dict(), "") and found.encoder.frozen
    assert not any(p.requires_grad for p in further.bert.encoder.visual_model.parameters())
    fresh, *_ = init_student(str(tmp_path / "model"), wanted(None), keep_head=False)
    assert same(fresh.state_dict(), made.state_dict(), "bert.")
    assert not same(fresh.state_dict(), made.state_dict(), "classifier.0.weight")
    with pytest.raises(InputError, match="brings its own image network"):
        init_student(str(tmp_path / "model"), wanted(str(clips["resnet"])), keep_head=False)
    far = wanted(None, long_side=26 * 32)
    with pytest.raises(InputError, match="knows positions of 800 pixels, the canvas is 64 x 832"):
        init_student(str(tmp_path / "model"), far, keep_head=False)
    assert (
        new_from_scratch(wanted(str(clips["resnet"]), "random", layers=1, long_side=26 * 32), tokenizer)[1].encoder.positions
        == 26
    )
