"""`convert`: heads of attention are those of the published model of a width, or what the user says; nothing else is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from official_checkpoints import OFFICIAL

from vldistill.errors import InputError
from vldistill.models.base.official import BERT, CLIP_IMAGE, CLIP_TEXT, HEADS_OF_WIDTH, SLIP_IMAGE, Stack, heads_of
from vldistill.recipe.schema.students import official_layouts

PUBLISHED = {
    (BERT, 768): 12,  # BERT-Base, Large: table of Devlin et al., section 3
    (BERT, 1024): 16,
    (CLIP_TEXT, 512): 8,  # ViT-B/32, RN50x4, ViT-L/14, RN50x64: tables 19 and 20 of Radford et al.
    (CLIP_TEXT, 640): 10,
    (CLIP_TEXT, 768): 12,
    (CLIP_TEXT, 1024): 16,
    (CLIP_IMAGE, 768): 12,
    (CLIP_IMAGE, 1024): 16,
    (SLIP_IMAGE, 384): 12,  # not timm's 6
    (SLIP_IMAGE, 768): 12,
    (SLIP_IMAGE, 1024): 16,
}
PARTS = {"meter": ("text", "image", "co-attention"), "slip": ("text", "image"), "declip": ("text", "image")}
"""Of kinds with several Transformers."""


def without_heads(words: list[str | Path]) -> list[str | Path]:
    place = words.index("--heads") if "--heads" in words else len(words)
    return [*words[:place], *words[place + 2 :]]


@pytest.mark.parametrize("kind", official_layouts())
def test_a_width_that_no_published_model_has_is_asked_for(kind, command, well, tmp_path):
    source, *words = OFFICIAL[kind](tmp_path)
    if kind == "oscar":  # whose config.json says it
        (source / "config.json").unlink()
    bare, out = without_heads(words), tmp_path / "out"
    refused = command("convert", kind, source, out, *bare)
    assert refused.code == 2 and "--heads" in refused.err and len(refused.err.splitlines()) == 1 and not out.exists()
    assert "does not say how many heads of attention" in refused.err and "(say it with --heads N" in refused.err
    if kind in PARTS:
        parts = PARTS[kind]
        assert f"--heads {','.join('N' * len(parts))} ({', '.join(parts)}), such as" in refused.err
        assert (
            f"has {len(parts)} Transformer(s), --heads 4 numbers"
            in command("convert", kind, source, out, *bare, "--heads", "1,1,1,1").err
        )
    # Two where the usual width of a head would make one, or one for two.
    given = {"meter": "2,4,8", "slip": "2,4", "declip": "4,2"}.get(kind, "4")
    well("convert", kind, source, out, *bare, "--heads", given)
    config = json.loads((out / "config.json").read_text())
    names = {
        "meter": ("text_heads", "vision_heads", "num_attention_heads"),
        "declip": ("text_heads", "vision_heads"),
        "slip": ("heads", "num_heads"),
    }.get(kind, ("num_attention_heads",))
    held = {**config, **config.get("sizes", {}), **config.get("sizes", {}).get("options", {})}
    assert [held[name] for name in names] == [int(number) for number in given.split(",")]


def test_published_widths_are_known(tmp_path):
    assert {(kind, width) for kind, widths in HEADS_OF_WIDTH.items() for width in widths} == PUBLISHED.keys()
    for (kind, width), heads in PUBLISHED.items():
        assert heads_of({"a": Stack(kind, width)}, None, tmp_path) == {"a": heads}
        assert heads_of({"a": Stack(kind, width)}, (4,), tmp_path) == {"a": 4}  # what is said counts
    both = {"text": Stack(CLIP_TEXT, 512), "image": Stack(CLIP_IMAGE, 384)}
    with pytest.raises(InputError, match=r"have: image is 384 wide \(say .* \(text, image\), such as 8,6\)"):
        heads_of(both, None, tmp_path)
    assert heads_of(both, (8,), tmp_path) == {"text": 8, "image": 8}
    with pytest.raises(InputError, match="its image Transformer is 384 wide, which is not a multiple of 7"):
        heads_of(both, (8, 7), tmp_path)
