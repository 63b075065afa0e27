"""What a recipe says of any student; each family's section adds its own fields (`vldistill/models/<family>/section.py`).

A family's section also says, without torch, what the rest of a recipe may ask of such a student.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import model_validator

from vldistill.recipe.schema.base import Depth, Fraction, Place, Section, Side, Width

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe


class Sizes(Section):
    """A Transformer from scratch, by default of BERT's and ViT's base size. Where a student has two towers, each is so."""

    layers: Depth = 12
    """Layers."""
    width: Width = 768
    """Features of a state."""
    heads: Depth = 12
    """Attention heads of a layer; a divisor of `width`."""
    feedforward: Width = 3072
    """Features between the two linear maps of a layer."""

    @model_validator(mode="after")
    def _divisible(self) -> Sizes:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class PatchSizes(Sizes):
    """One that sees patches of an image."""

    patch: Side = 32
    """Side of a patch, in pixels."""


class TableSizes(PatchSizes):
    """One whose table of positions is interpolated to each image."""

    image_size: Side = 384
    """Side of the square that the table of positions spans, in pixels; a multiple of `patch`."""

    @model_validator(mode="after")
    def _whole_patches(self) -> TableSizes:
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        return self


@dataclass(frozen=True)
class Official:
    """A layout of official checkpoints, which the `LAYOUT` of a module below `vldistill.models` reads. vocabulary: what tokens
    come from, "" where the layout brings its own. answers: whether a file may be of a task, and of VQA without its answers.
    cased: whether its vocabulary may be of either case."""

    name: str
    module: str
    vocabulary: str = "give the vocab.txt of its BERT: cased for uniter, uncased for the others"
    answers: bool = False
    cased: bool = True

    def convert(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Writes the model folder, see `OfficialLayout.convert`; returns what the model is, for people."""
        layout = resolve_name(f"vldistill.models.{self.module}:LAYOUT")
        return layout.facts(layout.convert(*arguments, **options))


class Student(Section):
    """The fields that every student has, and what the rest of a recipe asks of its kind.

    sees: image patches, regions of a store, whole images on a canvas, or nothing. fusion: the kind of fusion model that sees what
    it sees and can teach it, itself for such a model; dual: whether it is the dual encoder of that kind. pretrains: the tasks of
    objective `pretrain` that it has heads for. ranks: how it ranks images and texts: each pair, or by their vectors.
    attentions: what DiDE can make of its attention. perturbed: whether VILLA's perturbations reach its inputs. features: of
    regions, by what made them, that official checkpoints know. official: layouts of such checkpoints.
    """

    sees: ClassVar[Literal["patches", "regions", "letterbox", "nothing"]] = "patches"
    fusion: ClassVar[str] = ""
    dual: ClassVar[bool] = False
    pretrains: ClassVar[tuple[str, ...]] = ()
    ranks: ClassVar[Literal["", "pairs", "vectors"]] = ""
    attentions: ClassVar[tuple[str, ...]] = ("cross", "uni", "whole", "none")
    perturbed: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ("detector",)
    official: ClassVar[tuple[Official, ...]] = ()

    kind: str
    """What the student is."""
    init: Place | None = None
    """What it starts from: a run, a model folder or a hub name; null starts from scratch, with `sizes`."""
    sizes: Sizes = Sizes()
    """Of one from scratch."""
    dropout: Fraction = 0.1
    """Dropout of states, and of attention where the family has it."""
    keep_head: bool = False
    """Whether it takes the task's head of `init` along, too; its labels must be the data's."""

    @classmethod
    def name(cls) -> str:
        """The kind whose section this is."""
        return get_args(cls.model_fields["kind"].annotation)[0]

    @property
    def own_features(self) -> bool:
        """Whether it makes its regions' features itself, instead of reading a store."""
        return False

    def start(self) -> str:
        """What it starts from, for people."""
        return self.init or "scratch"

    def look(self, encoder: Any) -> str:
        """Through what one sees that sees images on a canvas, for people. encoder: the model's own sizes."""
        return ""

    def weight_files(self) -> dict[str, str]:
        """What else it starts from, by what that is: names or files."""
        return {}

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError where the rest of the recipe does not go with it."""
        image, regions = recipe.image, self.sees == "regions"
        if regions and recipe.regions is None and not self.own_features:
            raise ValueError(f"a {self.kind} student needs `regions`")
        if image.augment == "flip" and not self.own_features:
            raise ValueError("image.augment=flip is for a student with an image network of its own: student.visual=end_to_end")
        if image.exif and (regions or self.sees == "nothing"):
            raise ValueError(f"image.exif turns pixels, which a {self.kind} student does not see by themselves")
        if image.long_side != type(image).model_fields["long_side"].default and self.sees != "letterbox":
            raise ValueError(f"image.long_side is for a student that sees images on a canvas; this one is {self.kind}")
        if self.sees == "letterbox" and image.augment != "none":
            raise ValueError(f"a {self.kind} student sees images as they are: image.augment must be none")
        if recipe.train.batch.tokens is not None and not regions:
            raise ValueError(f"train.batch.tokens is for students over regions; this one is {self.kind}")
        if recipe.adversarial is not None and not self.perturbed:
            raise ValueError(f"`adversarial` is VILLA's, for a uniter student; this one is {self.kind}")
        if self.keep_head and self.init is None:
            raise ValueError("student.keep_head needs student.init")


class Baseline(Student):
    """One that is compared with, and trained by labels alone."""

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.objective.kind != "labels":
            raise ValueError(f"a {self.kind} student is a baseline: it is trained by objective {{kind: labels}}")
