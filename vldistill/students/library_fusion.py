"""VisualBERT and LXMERT of `transformers` as fusion baselines over a region store (DiDE, Table 2).

The encoders are the library's, names and all. The heads read the pooled first token: LXMERT's is its published one, VisualBERT's
that of ViLT, where its authors have a Linear on the last word (VQA) or on the pooled vector. Two images are two passes.
"""

from __future__ import annotations

from torch import Tensor

from vldistill.data.batch import RegionBatch, TextBatch
from vldistill.models.heads import classifier, init_weights, initial_std, late_norm_classifier
from vldistill.models.library_fusion import LxmertConfig, VisualBertConfig
from vldistill.models.outputs import View
from vldistill.students.region_student import JoinedStudent


class VisualBert(JoinedStudent):
    """One BERT over text and regions, which have a type and one position, and no box."""

    def __init__(self, config: VisualBertConfig, *, images: int, classes: int, target: str):
        super().__init__(config, target)
        from transformers import VisualBertConfig as Sizes
        from transformers import VisualBertModel

        self.visual_bert = VisualBertModel(Sizes(**config.to_dict(), pad_token_id=0))
        width = config.hidden_size
        init_weights(self.visual_bert, initial_std(width))
        self.classifier = classifier(width * images, width * 2, classes, width=width)

    def see(self, text: TextBatch, image: RegionBatch) -> tuple[Tensor, View]:
        found = self.visual_bert(
            input_ids=text.ids, attention_mask=text.mask.long(), token_type_ids=text.segments.clamp(max=1),
            visual_embeds=image.features, visual_attention_mask=image.mask.long())
        return found.pooler_output, View(text.mask, image.mask, image.mask)


class Lxmert(JoinedStudent):
    """Text and regions, features with boxes, each in layers of their own, then in layers that cross; the pooled text answers."""

    def __init__(self, config: LxmertConfig, *, images: int, classes: int, target: str):
        super().__init__(config, target)
        from transformers import LxmertConfig as Sizes
        from transformers import LxmertModel

        self.lxmert = LxmertModel(Sizes(**config.to_dict()))
        width = config.hidden_size
        self.classifier = late_norm_classifier(width * images, width * 2, classes, eps=1e-12)
        init_weights(self, initial_std(width))
        # Nothing reads what the last layer makes of the regions, so these would get no gradient.
        last = self.lxmert.encoder.x_layers[-1]
        for part in (last.visn_self_att, last.visn_inter, last.visn_output):
            part.requires_grad_(False)

    @property
    def layers(self) -> int:
        return self.config.l_layers + self.config.x_layers

    def see(self, text: TextBatch, image: RegionBatch) -> tuple[Tensor, View]:
        found = self.lxmert(
            input_ids=text.ids, attention_mask=text.mask, token_type_ids=text.segments.clamp(max=1), visual_feats=image.features,
            visual_pos=image.boxes, visual_attention_mask=image.mask)
        return found.pooled_output, View(text.mask, image.mask, image.mask)
