"""Official checkpoints of CLIP-ViL_p. Every key has a place, or is named here with the reason why it has none."""

from __future__ import annotations

from vldistill.models.base.converter import BertLayout, BertTables
from vldistill.models.clip_vil.start import SHORT_SIDE, official_config

_CLIP = r"bert\.encoder\.visual_model\."
# Its image network is a whole CLIP, and its regions have boxes, of which it reads neither text nor places.
LAYOUT = BertLayout(
    "clip_vil",
    ((r"^module\.", ""),),
    (
        (r"^cls\.", "pre-training's heads for hidden words and matching"),
        (r"^obj_predict_head\.", "pre-training's head for objects"),
        (r"^answer_head\.", "pre-training's head for answers"),
        (r"^bert\.encoder\.visn_fc\.box_", "places of regions, which a grid has not"),
        (rf"^{_CLIP}(?!visual\.)", "CLIP's text side"),
        (rf"^{_CLIP}visual\.attnpool\.", "CLIP's pooling, behind the grid"),
    ),
    BertTables(
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.encoder.layer.",
        "bert.encoder.visn_fc.visn_fc.weight",
    ),
    fitted=official_config,
    image_size=SHORT_SIDE,
)
