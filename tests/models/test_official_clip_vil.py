"""The official checkpoint of CLIP-ViL_p: made here in the published layout with random weights, converted, and started from."""

from __future__ import annotations

import pytest
import test_official
import torch
from asked import asked

from vldistill.errors import InputError
from vldistill.models.build import init_student
from vldistill.models.clip_vil import official as official_clip_vil
from vldistill.models.clip_vil.model import ClipVil, ClipVilConfig

TOWER = {"image_size": 64, "layers": [2, 1, 3, 1], "width": 4}


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(test_official.WORDS) + "\n")
    return path


def clip_vil() -> dict[str, torch.Tensor]:
    """As CLIP-ViL's pre-training saves it: a whole CLIP inside, and heads and boxes of LXMERT's beside it."""
    config = ClipVilConfig(**(test_official.CONFIG.to_dict() | {"region_size": 128}), tower=TOWER, positions=9)
    torch.manual_seed(4)
    own = {
        name: torch.rand_like(value) if value.is_floating_point() else value + 5
        for name, value in ClipVil(config, classes=1, target="label").state_dict().items()
        if name.startswith("bert.")
    }
    clip = "bert.encoder.visual_model."
    heads = {
        "cls.predictions.bias": torch.zeros(3),
        "obj_predict_head.transform.dense.bias": torch.zeros(3),
        "answer_head.logit_fc.0.bias": torch.zeros(3),
        "bert.encoder.visn_fc.box_fc.weight": torch.zeros(64, 4),
        "bert.encoder.visn_fc.box_layer_norm.bias": torch.zeros(64),
        f"{clip}logit_scale": torch.zeros(()),
        f"{clip}transformer.resblocks.0.ln_1.bias": torch.zeros(4),
        f"{clip}visual.attnpool.k_proj.bias": torch.zeros(4),
    }
    return own | heads


@pytest.mark.parametrize("prefix", ["", "module."])
def test_clip_vil_comes_out_weight_for_weight(tmp_path, vocabulary, prefix):
    official = clip_vil()
    torch.save({f"{prefix}{name}": value for name, value in official.items()}, tmp_path / "official.pth")
    spec = official_clip_vil.LAYOUT.convert(tmp_path / "official.pth", vocabulary, tmp_path / "out", lowercase=True)
    assert (spec.encoder.tower["layers"], spec.encoder.tower["width"], spec.encoder.region_size) == ([2, 1, 3, 1], 4, 128)
    assert (spec.image_size, spec.encoder.long_side, spec.encoder.positions, spec.max_length) == (384, 640, 9, 28)
    request = asked("clip_vil", "vcr", 1, ["0", "1", "2", "3"], 64, 20, 0.1, long_side=96)
    student, found, _ = init_student(str(tmp_path / "out"), request, keep_head=False)
    state = {name: value for name, value in student.state_dict().items() if name.startswith("bert.")}
    assert all(torch.equal(value, official[name]) for name, value in state.items()) and found.encoder.long_side == 96
    left_out = ("cls.", "obj_", "answer_", "bert.encoder.visn_fc.box_")
    assert {name for name in official.keys() - state.keys() if "visual_model" not in name} == {
        name for name in official if name.startswith(left_out)
    }


@pytest.mark.parametrize(
    "name, part",
    [
        ("bert.encoder.visual_model.visual.layer1.0.conv1.weight", "it lacks CLIP's ResNet"),
        ("bert.encoder.visual_pos.x_position_embedding.weight", "it lacks CLIP's ResNet or the cells' positions"),
        ("bert.encoder.visn_fc.visn_fc.weight", "is no clip_vil checkpoint: it lacks"),
        ("bert.encoder.visual_model.visual.layer3.1.bn2.running_var", "missing bert.encoder.visual_model.visual.layer3.1.bn2"),
    ],
)
def test_a_clip_vil_checkpoint_that_lacks_a_part_is_refused(tmp_path, vocabulary, name, part):
    official = clip_vil()
    del official[name]
    torch.save(official, tmp_path / "official.pth")
    with pytest.raises(InputError, match=part):
        official_clip_vil.LAYOUT.convert(tmp_path / "official.pth", vocabulary, tmp_path / "out", lowercase=True)
    assert not (tmp_path / "out").exists()
