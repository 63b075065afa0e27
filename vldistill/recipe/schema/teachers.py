"""The part of a recipe that names teachers: a fusion model, or unimodal encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vldistill.recipe.schema.base import Place, Positive, Section
from vldistill.recipe.schema.students import TeacherKind

Layer = Literal["last"] | Positive


class Teacher(Section):
    """A fusion model, fine-tuned on the same task (for pre-training, a pre-trained one): a run, a model folder or a hub name."""

    kind: TeacherKind = "vilt"
    model: Place


class VisionTeacher(Section):
    """A frozen vision encoder. kind: "timm" (any of its models), "open_clip" (CLIP-V) or "slip" (SLIP-V). model: a name, a local
    folder or a run of a "vision_encoder". weights: null for the published ones, a file, open_clip's tag, or "random". layer:
    last, or a block counted from 1 (timm only)."""

    kind: Literal["timm", "open_clip", "slip"]
    model: Place
    weights: Place | None = None
    layer: Layer = "last"


class TextTeacher(Section):
    """A frozen text encoder. kind: "transformers" (any of its encoders; model may be a run of a "text_encoder"), "open_clip"
    (CLIP-T) or "slip" (SLIP-T)."""

    kind: Literal["transformers", "open_clip", "slip"]
    model: Place
    weights: Place | None = None
    layer: Layer = "last"


class RelevanceModel(Section):
    """The CLIP that judges how visible a word is."""

    kind: Literal["open_clip", "slip"] = "open_clip"
    model: Place
    weights: Place | None = None


class Teachers(Section):
    """ADVL's unimodal teachers. relevance: null selects words by YAKE alone. batch: images or texts at a time when caches are
    filled. precision: of the teachers' passes, live or to fill caches; "auto" is fp16 on a GPU. Features are kept as fp16 in any
    case."""

    vision: VisionTeacher | None = None
    text: TextTeacher | None = None
    relevance: RelevanceModel | None = None
    batch: Positive = 64
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


class Cache(Section):
    """Teacher features on disk: build what is missing, require them, or run the teacher live. versions: beside rows of which
    versions of the libraries that compute them new rows may stand; the last part of a version never matters."""

    path: Place = "artifacts/cache"
    mode: Literal["auto", "require", "live"] = "auto"
    versions: Literal["same", "any"] = "same"
    words: Annotated[int, Field(ge=1, le=32)] = 2  # vectors kept a text: any objective.words up to this can be trained
