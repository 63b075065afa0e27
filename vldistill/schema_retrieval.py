"""What a recipe says of image-text retrieval."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vldistill.schema_base import NonNegative, Positive, Section
from vldistill.schema_teachers import DUAL_ENCODERS


class RetrievalObjective(Section):
    """Image-text retrieval on captions.

    A dual encoder learns by cross-modal contrast (CMC) in the batch; with attention, also from a fusion teacher on the
    matched pairs, as DiDE has it (fields as of objective `dide`). temperature: where that of CMC starts. A vilt student learns to
    rank each text above `false_texts` others, drawn from the training set, beside the same image (15 when null, ViLT's own).
    """

    kind: Literal["retrieval"]
    attention: Literal["cross", "uni", "whole", "none"] = "none"
    layers: Literal["last", "top", "bottom", "all"] = "last"
    kl: Literal["forward", "reverse"] = "forward"
    attention_weight: NonNegative = 1.0
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    false_texts: Positive | None = None

    @property
    def hidden_states(self) -> bool:
        return False

    @property
    def soft_labels(self) -> bool:
        return False

    def check_student(self, kind: str, *, has_teacher: bool) -> None:
        """Raises ValueError where the student cannot be trained so."""
        if kind not in ("vilt", "clip_dual", *DUAL_ENCODERS):
            raise ValueError(f"objective `retrieval` is for a vilt student or a dual encoder; this one is {kind}")
        if kind == "vilt" and self.attention != "none":
            raise ValueError("objective.attention of `retrieval` is for a dual encoder; this one is vilt")
        if kind == "clip_dual" and self.attention != "none":
            raise ValueError("a clip_dual student has no fusion teacher: set objective.attention=none")
        if kind != "vilt" and self.false_texts is not None:
            raise ValueError(f"objective.false_texts is for a vilt student; the batch of a {kind} has its own")
        if self.attention != "none" and not has_teacher:
            raise ValueError("objective.attention needs a `teacher`")
