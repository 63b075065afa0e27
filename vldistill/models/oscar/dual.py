"""The dual encoder that comes from an OSCAR (DiDE, Fig. 3): a BERT over text alone, and one over regions alone."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from vldistill.data.text import WordTokenizer
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.oscar.encoder import CLS_TOKEN, OscarConfig, OscarEncoder


class OscarDual(DualEncoder):
    """Each tower is a half of an OSCAR: its embeddings, all its layers and its pooler.

    The image's representation is the output of a learned [I_CLS] before the regions. OSCAR has no such token, so views are of
    the regions alone: [I_CLS] is neither a query nor a key of the attention that is compared, as little as its states are.
    """

    image_cls_in_views = False

    def __init__(self, config: OscarConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            OscarEncoder(config, image=False),
            OscarEncoder(config, text=False),
            images=images,
            classes=classes,
            pretraining=pretraining,
        )

    def new_weights(self, tower: str, weights: dict[str, Tensor], tokenizer: WordTokenizer) -> dict[str, Tensor]:
        """[I_CLS] starts as the embedding of the text's [CLS], the token that all layers and the pooler know to read from."""
        if tower != "image_encoder":
            return {}
        tables = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
        first = sum(weights[table][row] for table, row in zip(tables, (tokenizer.cls_id, 0, 0), strict=True))
        norm = [weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")]
        eps = self.text_encoder.config.layer_norm_eps
        return {CLS_TOKEN: nn.functional.layer_norm(first, first.shape, *norm, eps)[None, None]}
