"""VL-BERT with an image network of its own: what learns, what stays, and where its weights come from and go to."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from asked import asked, sizes
from tiny_regions import body, sized, write_words
from torch.nn import functional as F

from vldistill.data.batch import Batch, TextBatch
from vldistill.data.regions.network import ImageNetwork, RegionNetwork, norms
from vldistill.data.regions.objects import MASK, UNKNOWN, Objects
from vldistill.data.text import train_tokenizer
from vldistill.data.visual import stack_pixels
from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import ModelSpec, load_strict, read_checkpoint, save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student, new_from_scratch, new_student
from vldistill.models.vlbert import official as official_vlbert
from vldistill.models.vlbert.model import VlBert
from vldistill.objectives.base import HardLabels
from vldistill.objectives.matching import AdvlMatchingHead

TINY = ImageNetwork(blocks=(1, 1, 2, 1), width=4, short_side=32, long_side=64)
WIDTH = 16
CONFIG = RegionBertConfig(
    vocab_size=30,
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    max_position_embeddings=20,
    type_vocab_size=3,
    region_size=TINY.features,
)


def student(network: ImageNetwork | None = TINY, seed: int = 0) -> VlBert:
    """Fresh, but for the visual norms, which start at zero and let nothing through."""
    torch.manual_seed(seed)
    made = VlBert(CONFIG, classes=1, target="choice", network=network)
    for norm in (made.vlbert.visual_ln_text, made.vlbert.visual_ln_object):
        torch.nn.init.ones_(norm.weight)
    return made


def batch(classes=(3, UNKNOWN, 7)) -> Batch:
    """Two questions with four answers each, about images of three objects and of one."""
    draw = np.random.default_rng(5)
    items = []
    for count in (3, 1):
        corners = draw.uniform(0, 0.5, (count, 2))
        boxes = np.concatenate([corners, corners + 0.4], axis=1).astype(np.float32)
        objects = Objects(boxes, draw.random((count, MASK, MASK)) < 0.8, np.array(classes[:count]))
        items.append((draw.integers(0, 256, (30, 60, 3), dtype=np.uint8), objects))
    lengths = torch.tensor([6, 4, 5, 6, 3, 6, 6, 4])
    mask = torch.arange(6) < lengths[:, None]
    ids = torch.from_numpy(draw.integers(1, 30, (8, 6))).masked_fill(~mask, 0)
    tags = torch.from_numpy(draw.integers(-1, 3, (8, 6)))
    text = TextBatch(ids, mask, torch.full_like(ids, -1), torch.zeros_like(ids), tags)
    return Batch(["a", "b"], text, [stack_pixels(items, TINY)], torch.tensor([1, 2]))


# --- learning ------------------------------------------------------------------------------------------------------------


def test_gradients_reach_the_image_network_but_not_its_frozen_parts():
    model = student(replace(TINY, object_loss=0.0)).train()
    HardLabels("choice_bce")(model(batch()), None, batch())["task"].backward()
    body = model.image_feature_extractor.backbone
    frozen = {id(p) for module in (body.conv1, body.layer1, *norms(model)) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in frozen:
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            if "backbone" in name or "roi_head" in name:
                assert parameter.grad.abs().sum() > 0, name


def test_a_step_leaves_norms_and_their_statistics_as_they_are():
    model = student().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        sum(HardLabels("choice_bce")(model(batch()), None, batch()).values()).backward()
        optimizer.step()
    moved = {
        name.removeprefix("image_feature_extractor.")
        for name, value in model.state_dict().items()
        if name.startswith("image_feature_extractor.") and not torch.equal(value, before[name])
    }
    assert moved and all(name.startswith(("backbone.layer2", "backbone.layer3", "roi_head", "obj_downsample")) for name in moved)
    assert not any(".bn" in name or "downsample.1" in name for name in moved if not name.startswith("obj_"))
    assert model.training and not any(norm.training for norm in norms(model))


def test_the_loss_on_objects_by_hand():
    """The whole image is background; an object of no known class is left out; in evaluation there is no such loss."""
    model = student(replace(TINY, object_loss=0.5)).train()
    model.image_feature_extractor.obj_downsample[0].p = 0.0
    given = batch()
    output = model(given, Capture(hidden=(2,)))
    states = output.views[0].hidden[2][1]  # [8, whole + 3 objects + end, D]
    head, losses = model.cnn_loss_reg, []
    for row, classes in enumerate([[0, 3, UNKNOWN, 7]] * 4 + [[0, 3]] * 4):
        for place, label in enumerate(classes):
            if label != UNKNOWN:
                logits = F.linear(F.gelu(head[0].dense(states[row, place])), head[2].weight, head[2].bias)
                losses.append(-logits.log_softmax(-1)[label])
    assert len(losses) == 4 * 3 + 4 * 2
    assert output.auxiliary["objects"].item() == pytest.approx(0.5 * torch.stack(losses).mean().item(), rel=1e-5)
    terms = HardLabels("choice_bce")(output, None, given)
    assert terms.keys() == {"task", "objects"} and model.eval()(given).auxiliary == {}


@torch.no_grad()
def test_it_says_the_same_as_over_its_own_features():
    """The student over regions, given what the image network makes of the image."""
    whole, plain, given = student().eval(), student(None).eval(), batch()
    state = {name: value for name, value in whole.state_dict().items() if name in plain.state_dict()}
    load_strict(plain, state, "test")
    seen = replace(given, images=[whole.image_feature_extractor.see(given.images[0])])
    torch.testing.assert_close(plain(seen).logits, whole(given).logits)
    other = replace(given, images=[replace(given.images[0], pixels=255 - given.images[0].pixels)])
    assert not torch.allclose(whole(other).logits, whole(given).logits)


def test_matching_sees_each_image_once():
    """Step 1 asks for every image three times."""
    model, given, shapes = student().train(), batch(), []
    rows = torch.tensor([0, 1, 0, 1, 1, 0])
    arranged = Batch(list("abcdef"), given.text[torch.tensor([0, 4, 0, 4, 0, 4])], [given.images[0][rows]], None)
    model.image_feature_extractor.backbone.register_forward_hook(lambda module, args, out: shapes.append(args[0].shape))
    output = model(arranged, Capture(hidden=(2,)))
    assert [shape[0] for shape in shapes] == [2] and output.logits.shape[0] == 6
    assert output.views[0].visual.sum(1).tolist() == [4, 2, 4, 2, 2, 4]
    AdvlMatchingHead(WIDTH)(output.views[0], 2).sum().backward()
    assert model.image_feature_extractor.roi_head_feature_extractor[0].conv2.weight.grad.abs().sum() > 0


# --- weights -------------------------------------------------------------------------------------------------------------

LABELS = ["0", "1", "2", "3"]


def wanted(network: ImageNetwork | None, weights: str | None = None):
    own = {"sizes": sizes(1, 16)}
    if network is not None:
        own |= {"visual": "end_to_end", "image_network": asdict(network) | {"blocks": list(network.blocks), "weights": weights}}
    return asked("vlbert", "vcr", 1, LABELS, 0, 18, 0.0, own=own, regions=None if network else "r")


@pytest.fixture
def tokenizer():
    return train_tokenizer([["is", "there", "a", "red", "circle", "?"]], 40)


def same(state, other, prefix: str) -> bool:
    names = [name for name in state if name.startswith(prefix)]
    return bool(names) and all(torch.equal(state[name], other[name]) for name in names)


def test_a_model_folder_keeps_the_network_and_continues_from_it(tmp_path, tokenizer):
    spec = ModelSpec("vlbert", replace(CONFIG, vocab_size=len(tokenizer.vocabulary)), "vcr", 1, LABELS, 0, 18, image_network=TINY)
    model = new_student(spec)
    save_model(tmp_path / "model", model, spec, tokenizer)
    assert read_checkpoint(str(tmp_path / "model")).spec == spec
    # The sizes of the network are the checkpoint's own, those of images and the loss are the recipe's.
    asked = ImageNetwork(short_side=48, long_side=96, object_loss=0.0)
    again, found, _ = init_student(str(tmp_path / "model"), wanted(asked), keep_head=False)
    assert found.image_network == replace(asked, blocks=TINY.blocks, width=TINY.width)
    assert same(model.state_dict(), again.state_dict(), "image_feature_extractor.") and not hasattr(again, "cnn_loss_reg")
    kept, *_ = init_student(str(tmp_path / "model"), wanted(TINY), keep_head=True)
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in model.state_dict().items())
    over, found, _ = init_student(str(tmp_path / "model"), wanted(None), keep_head=False)
    assert found.image_network is None and same(over.state_dict(), model.state_dict(), "image_feature_extractor.obj")
    fresh, *_ = init_student(str(tmp_path / "model"), wanted(TINY, "random"), keep_head=False)
    assert not same(model.state_dict(), fresh.state_dict(), "image_feature_extractor.backbone.layer2")


def test_a_network_comes_from_a_file_where_the_checkpoint_has_none(tmp_path, tokenizer):
    spec = ModelSpec("vlbert", replace(CONFIG, vocab_size=len(tokenizer.vocabulary)), "vcr", 1, LABELS, 0, 18, regions="r")
    save_model(tmp_path / "model", new_student(spec), spec, tokenizer)
    network = RegionNetwork(TINY).state_dict()
    torch.save(
        {
            name.replace("backbone.", "").replace("roi_head_feature_extractor.", "layer4."): value
            for name, value in network.items()
        },
        tmp_path / "resnet.pth",
    )
    for make in (
        lambda weights: init_student(str(tmp_path / "model"), wanted(TINY, weights), keep_head=False),
        lambda weights: new_from_scratch(wanted(TINY, weights), tokenizer),
    ):
        state = make(str(tmp_path / "resnet.pth"))[0].state_dict()
        assert all(torch.equal(state[f"image_feature_extractor.{name}"], value) for name, value in network.items())
        with pytest.raises(InputError, match="has no image network to start from"):
            make(None)
    with pytest.raises(InputError, match="reads 128 features a region, the image network makes 256"):
        init_student(str(tmp_path / "model"), wanted(replace(TINY, width=8), "random"), keep_head=False)


def test_the_official_checkpoint_of_an_end_to_end_model(tmp_path):
    """As VL-BERT's pre-training saves it: the last stage twice, once under the name of its head."""
    path = write_words(tmp_path)
    config = sized(type_vocab_size=3, region_size=TINY.features)
    torch.manual_seed(4)
    own = body(VlBert(config, classes=1, target="label", network=replace(TINY, object_loss=0.0)))
    own = {name: value for name, value in own.items() if "num_batches" not in name}
    head = "image_feature_extractor.roi_head_feature_extractor."
    twice = {name.replace(head, "image_feature_extractor.head.0."): value for name, value in own.items() if name.startswith(head)}
    others = {
        "vlbert.mvrc_head.transform.dense.weight": torch.randn(64, 64),
        "vlbert.mvrc_head.transform.dense.bias": torch.randn(64),
        "vlbert.mvrc_head.region_cls_pred.weight": torch.zeros(3, 64),
        "object_mask_word_embedding.weight": torch.zeros(1, 64),
    }
    saved = {f"module.{name}": value for name, value in (own | twice | others).items()}
    torch.save({"state_dict": saved}, tmp_path / "official.model")
    spec = official_vlbert.LAYOUT.convert(tmp_path / "official.model", path, tmp_path / "out", lowercase=True)
    assert (spec.image_network.blocks, spec.image_network.width) == (TINY.blocks, TINY.width)
    model, found, _ = init_student(str(tmp_path / "out"), replace(wanted(TINY), max_length=20), keep_head=False)
    state = model.state_dict()
    assert found.official and same(own, state, head) and same(own, state, "image_feature_extractor.backbone.")
    assert torch.equal(state["cnn_loss_reg.0.dense.weight"], others["vlbert.mvrc_head.transform.dense.weight"])
    over, found, _ = init_student(str(tmp_path / "out"), replace(wanted(None), max_length=20), keep_head=False)
    assert found.image_network is None and not any("backbone" in name or "cnn_loss" in name for name in over.state_dict())
