"""Official checkpoints of UNITER and VILLA. Every key has a place, or is named here with the reason why it has none."""

from __future__ import annotations

from vldistill.models.base.converter import CONSTANTS, FRESH, BertLayout, BertTables
from vldistill.models.uniter.texts import PERSONS

LAYOUT = BertLayout(
    "uniter",
    ((r"^module\.", ""), (r"^bert\.", "uniter.")),
    (
        (r"^cls\.", "pre-training's head for hidden words"),
        (r"^feat_regress\.", "pre-training's head for regions' features"),
        (r"^region_classifier\.", "pre-training's head for regions' classes"),
        (r"^itm_output\.", "pre-training's head for image-text matching"),
        (r"^(?:vcr|vqa|ve|nlvr2)_output\.", FRESH),
        (r"\.position_ids$", CONSTANTS),
    ),
    BertTables(
        "uniter.embeddings.word_embeddings.weight",
        "uniter.embeddings.position_embeddings.weight",
        "uniter.embeddings.token_type_embeddings.weight",
        "uniter.encoder.layer.",
        "uniter.img_embeddings.img_linear.weight",
    ),
    lowercase=False,
    more_words=PERSONS,
)
