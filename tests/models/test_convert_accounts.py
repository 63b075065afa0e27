"""`convert`: every weight of an official file is kept or named with the reason why not, for every kind there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_official as region_layouts
import test_official_clip_vil as clip_vil_layout
import test_official_oscar as oscar_layout
import torch
from official_checkpoints import slip_weights
from official_declip_layout import official_declip
from official_meter_layout import OfficialMeter, write_vocabulary
from official_vilt_layout import OfficialVilt
from safetensors.torch import load_file
from tiny_oscar import write_vocabulary as write_oscar_words
from tiny_regions import body, sized, write_words

from vldistill.artifacts import CONVERTED, read_manifest
from vldistill.data.text import SPECIALS
from vldistill.errors import InputError
from vldistill.models.base.converter import FRESH, renaming, sort_out
from vldistill.models.uniter.model import Uniter
from vldistill.recipe.schema.students import official_layouts

WIDTH = 64


def distinct(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every weight with values of its own, so that it is known wherever it goes."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in weights.items()
    }


def official(kind: str, folder: Path) -> tuple[dict[str, torch.Tensor], Path, list]:
    """A file of the kind in its published layout, what a trainer keeps beside it included; where it lies; further options."""
    lower = [*SPECIALS, *"abcdefghij", "the", "##e"]
    file, vocabulary = folder / "official.pt", folder / "vocab.txt"
    options: list = ["--vocab", vocabulary]
    if kind == "vilt":
        weights = OfficialVilt(len(lower), 3, "nlvr2_classifier", 2).weights()
        weights |= {
            "text_embeddings.position_ids": torch.arange(4)[None],
            "itm_score.fc.bias": torch.zeros(2),
            "itm_score.fc.weight": torch.zeros_like(weights["pooler.dense.weight"][:2]),
        }
        write_words(folder, lower)
    elif kind == "meter":
        count = write_vocabulary(folder / "roberta")
        weights = OfficialMeter(count).weights()
        options = ["--vocab", folder / "roberta"]
    elif kind == "oscar":
        weights = oscar_layout.pretrained() | {"cls.seq_relationship.weight": torch.zeros(2, 4)}
        options = ["--vocab", write_oscar_words(folder), "--heads", oscar_layout.CONFIG.num_attention_heads]
    elif kind in ("uniter", "vlbert"):
        weights = getattr(region_layouts, kind)()
        weights |= (
            {"vqa_output.0.weight": torch.zeros(3, WIDTH)}
            if kind == "uniter"
            else {"module.final_mlp.1.weight": torch.zeros(3, WIDTH)}
        )
        write_words(folder)
        options += ["--case", "uncased"] if kind == "vlbert" else []
    elif kind == "clip_vil":
        weights = clip_vil_layout.clip_vil()
        write_words(folder)
        options += ["--case", "uncased"]
    elif kind == "slip":
        weights = slip_weights()
        weights["module.image_mlp.layer1.weight"], options = torch.zeros(2), []
    else:
        weights, options = official_declip(), []
    weights = distinct(weights)
    if kind == "oscar":  # tied
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    torch.save(weights, file)
    return weights, file, options


def marks(value: torch.Tensor) -> tuple[float, ...]:
    """The first of a weight's values, by which it is known; of several that were joined, those of the first."""
    return tuple(value.float().flatten()[:3].tolist())


@pytest.mark.parametrize("kind", official_layouts())
def test_every_weight_is_kept_or_named(well, tmp_path, kind):
    weights, file, options = official(kind, tmp_path)
    told = well("convert", kind, file, tmp_path / "out", *options)
    account = read_manifest(tmp_path / "out", CONVERTED, make_it="")["weights"]
    left = [name for names in account["left_out"].values() for name in names]
    names = {name.removeprefix("module."): name for name in weights}
    assert set(left) <= names.keys() and len(left) == len(set(left))
    assert account["in_file"] == len(weights) == account["kept"] + len(left)
    written = {marks(value) for value in load_file(tmp_path / "out/model.safetensors").values()}
    for plain, name in names.items():
        if weights[name].is_floating_point() and plain not in left:
            assert marks(weights[name]) in written, f"{name} is neither written nor left out"
        elif weights[name].is_floating_point() and kind != "oscar":  # whose decoder is another weight again
            assert marks(weights[name]) not in written, f"{name} is left out, and written"
    assert all(why in told.out for why in account["left_out"]) and left
    assert f"kept {account['kept']:,} of the file's {len(weights):,} weights" in told.out
    assert (told.last["kept"], told.last["left_out"]) == (account["kept"], len(left))
    if kind in ("uniter", "vlbert"):
        assert account["left_out"][FRESH]


def test_two_weights_of_one_name_are_refused():
    place = renaming(((r"^bert\.", "uniter."),))
    weights = {"bert.a": torch.zeros(1), "uniter.a": torch.ones(1)}
    with pytest.raises(InputError, match=r"bert\.a and uniter\.a would both be uniter\.a"):
        sort_out(weights, place, (), "x.pt")


def minilm(folder: Path) -> Path:
    """UNITER's layout, 384 wide with 12 heads, and an uncased vocabulary."""
    tokens = [*SPECIALS, *"abcdefghij", "the", "##e"]
    write_words(folder, tokens)
    config = sized(vocab_size=len(tokens), hidden_size=384, num_hidden_layers=1, num_attention_heads=12)
    torch.save(body(Uniter(config, classes=1, target="label")), folder / "minilm.pt")
    return folder / "minilm.pt"


def test_heads_and_case_are_asked_for_where_the_file_cannot_tell(well, command, tmp_path):
    file = minilm(tmp_path)
    common = ("convert", "uniter", file, tmp_path / "out", "--vocab", tmp_path / "vocab.txt")
    result = command(*common)
    assert result.code == 2 and "is 384 wide, and does not say how many heads" in result.err and "--heads N" in result.err
    result = command(*common, "--heads", "12")
    assert result.code == 2 and "has no capitals, the published model is cased" in result.err and "--case uncased" in result.err
    assert "not a multiple of 7" in command(*common, "--heads", "7", "--case", "uncased").err
    assert not (tmp_path / "out").exists()
    well(*common, "--heads", "12", "--case", "uncased")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["num_attention_heads"] == 12
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["do_lower_case"] is True
    for kind in ("slip", "declip", "meter"):
        vocabulary = ["--vocab", tmp_path] if kind == "meter" else []
        assert "--case means nothing" in command("convert", kind, file, tmp_path / "o", *vocabulary, "--case", "cased").err
    assert "is not known" in command(*common, "--case", "upper").err
    for wrong in ("many", "0", "1,", "-2", "1" * 30):
        assert f"--heads {wrong}" in command(*common, "--heads", wrong).err or wrong == "1,"
    assert "has 1 Transformer(s), --heads 2 numbers" in command(*common, "--heads", "12,12").err
