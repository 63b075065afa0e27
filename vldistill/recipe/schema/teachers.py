"""The part of a recipe that names teachers: a fusion model, or unimodal encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vldistill.recipe.schema.base import Place, Positive, Section
from vldistill.recipe.schema.students import TeacherKind

Layer = Literal["last"] | Positive


class Teacher(Section):
    """A fusion model, fine-tuned on the same task; for pre-training, a pre-trained one."""

    kind: TeacherKind = "vilt"
    """What it is."""
    model: Place
    """A run, a model folder or a hub name."""


class VisionTeacher(Section):
    """A frozen vision encoder."""

    kind: Literal["timm", "open_clip", "slip"]
    """timm (any of its models), open_clip (CLIP-V) or slip (SLIP-V)."""
    model: Place
    """A name, a local folder, or a run of a vision_encoder."""
    weights: Place | None = None
    """null for the published ones, a file, open_clip's tag, or "random"."""
    layer: Layer = "last"
    """last, or a block counted from 1 (timm only)."""


class TextTeacher(Section):
    """A frozen text encoder."""

    kind: Literal["transformers", "open_clip", "slip"]
    """transformers (any of its encoders), open_clip (CLIP-T) or slip (SLIP-T)."""
    model: Place
    """A name, a local folder, or a run of a text_encoder."""
    weights: Place | None = None
    """null for the published ones, a file, open_clip's tag, or "random"."""
    layer: Layer = "last"
    """last, or a layer counted from 1 (transformers only)."""


class RelevanceModel(Section):
    """The CLIP that judges how visible a word is."""

    kind: Literal["open_clip", "slip"] = "open_clip"
    """Of open_clip, or what `vldistill convert slip` wrote."""
    model: Place
    """A name or a local folder."""
    weights: Place | None = None
    """null for the published ones, a file, open_clip's tag, or "random"."""


class Teachers(Section):
    """ADVL's unimodal teachers."""

    vision: VisionTeacher | None = None
    """Its features are compared with the student's visual tokens."""
    text: TextTeacher | None = None
    """Its features are compared with the student's text, and with selected words."""
    relevance: RelevanceModel | None = None
    """Chooses the words by the image, beside YAKE; null selects them by YAKE alone."""
    batch: Positive = 64
    """Images or texts at a time when caches are filled."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the teachers' passes, live or to fill caches; auto is fp16 on a GPU. Features are kept as fp16 in any case."""


class Cache(Section):
    """Teachers' features on disk."""

    path: Place = "artifacts/cache"
    """The folder of all caches."""
    mode: Literal["auto", "require", "live"] = "auto"
    """Build what is missing, require it, or run the teacher live."""
    versions: Literal["same", "any"] = "same"
    """Beside rows of which versions of the libraries that compute them new rows may stand; the last part of a version never
    matters."""
    words: Annotated[int, Field(ge=1, le=32)] = 2
    """Vectors kept of a text: any `objective.words` up to this can be trained."""
