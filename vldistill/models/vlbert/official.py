"""Official checkpoints of VL-BERT. Every key has a place, or is named here with the reason why it has none."""

from __future__ import annotations

from vldistill.models.base.converter import FRESH, BertLayout, BertTables
from vldistill.models.vlbert.model import FREQUENCIES, OBJECTS, PRETRAINING, RELATIONSHIP, TRANSFORM
from vldistill.models.vlbert.network import found_network, network_weights

LAYOUT = BertLayout(
    "vlbert",
    (
        (r"^module\.", ""),
        (r"^vlbert\._module\.", "vlbert."),
        (r"^vlbert\.mlm_head\.predictions\.transform\.", TRANSFORM),
        (r"^vlbert\.relationsip_head\.caption_image_relationship\.", RELATIONSHIP),
        (r"^vlbert\.mvrc_head\.transform\.", OBJECTS),
    ),
    (
        (r"^vlbert\.(?:mlm_head|mvrc_head)\.", "pre-training's heads behind their transforms"),
        (r"^object_mask_(?:word|visual)_embedding\.", "what stands for a hidden region in pre-training"),
        (r"^aux_text_visual_embedding\.", "what stands for the image of a text alone in pre-training"),
        (r"^image_feature_extractor\.head\.", "the image network's last stage again, with a pooling behind it"),
        (r"^image_feature_extractor\.(?:mask_upsample|regularizing_predictor)\.", "the image network's loss on objects"),
        (r"^(?:final_mlp|cnn_loss_reg)\.", FRESH),
    ),
    BertTables(
        "vlbert.word_embeddings.weight",
        "vlbert.position_embeddings.weight",
        "vlbert.token_type_embeddings.weight",
        "vlbert.encoder.layer.",
        "image_feature_extractor.obj_downsample.1.weight",
        beside=4 * 2 * FREQUENCIES,
    ),
    unread=(PRETRAINING,),
    network=found_network,
    extra=lambda model, weights, where: network_weights(model, weights, None, where),
)
