"""ADVL on questions about the toy world's images: three small teachers on disk, and a recipe of a ViLT student."""

from __future__ import annotations

from pathlib import Path

from tiny_teachers import write_bert, write_clip, write_vit

_RECIPE = """
data: {{path: {data}}}
image: {{size: 36}}
text: {{max_length: 16, vocabulary_size: 300}}
student: {{kind: vilt, sizes: {{layers: 2, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}}, dropout: 0.0}}
teachers:
  vision: {{kind: timm, model: {teachers}/vit}}
  text: {{kind: transformers, model: {teachers}/bert}}
  relevance: {{kind: open_clip, model: {teachers}/clip, weights: random}}
{rest}
"""


def write_teachers(folder: Path) -> None:
    """vit, bert and clip below a folder."""
    for name, write in (("vit", write_vit), ("bert", write_bert), ("clip", write_clip)):
        write(folder / name)


def advl_recipe(rest: str, *, data: str | Path = "artifacts/data/toy-vqa", teachers: str | Path = "teachers") -> str:
    """The recipe with its objective, its training and what else there is. data: a VQA artifact. teachers: as `write_teachers`
    leaves them."""
    return _RECIPE.format(data=data, teachers=teachers, rest=rest)
