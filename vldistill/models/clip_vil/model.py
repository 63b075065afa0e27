"""CLIP-ViL (Shen et al., 2021, "How Much Can CLIP Benefit Vision-and-Language Tasks?"): one BERT over a text and the grid
features of CLIP's image network, which is trained along. ADVL compares its students with it.

Published, in the authors' code: BERT-base, uncased, over [CLS] text [SEP], all of segment 0, and all cells of the map before
the attention pooling of CLIP's RN50 or RN50x4, 12 x 20 of a canvas (see `data.letterbox`). A cell is its feature plus a learned
vector for its row and one for its column (25 each), then Linear, norm, dropout; it has no segment and is never masked. The head
reads the first token through BERT's pooler without the tanh: Linear to twice the width, GELU, norm, Linear. VQA is trained by
binary cross-entropy, SNLI-VE by cross-entropy, the batch norms by the statistics of the batch. Parameter names are those of the
authors' checkpoints (`bert.*`), whose BERT was pre-trained on images and texts: the p of CLIP-ViL_p.

Chosen here: VCR, for which there is no code. Each choice is a sequence, [CLS] question [SEP] answer [SEP], from the second part
on in BERT's segment 1; it has one logit, and the four share a softmax; a tag is only named ("person1"), as no region stands for
it. The cells of a Vision Transformer have the same two vectors, and its CLS is left out. One optimiser trains all, as ADVL tells
it; the authors have SGD of another rate for the image network.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, LetterboxBatch
from vldistill.models.base.bert import BertEncoder, BertPooler, TextEmbeddings, encode
from vldistill.models.base.fusion import by_record
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.letterboxes import look
from vldistill.models.base.outputs import NOTHING, Capture, Output
from vldistill.models.base.region_student import RegionStudent
from vldistill.models.clip_vil.grid import ClipVilConfig, GridTower


class GridPositions(nn.Module):
    """A vector for each row (x, as the checkpoints name it) and one for each column (y)."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        self.x_position_embedding = nn.Embedding(config.positions, config.region_size)
        self.y_position_embedding = nn.Embedding(config.positions, config.region_size)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] to [N, h * w, C], row by row."""
        rows, columns = features.shape[2:]
        places = self.x_position_embedding.weight[:rows, None] + self.y_position_embedding.weight[:columns]
        return (features.permute(0, 2, 3, 1) + places).flatten(1, 2)


class CellEmbeddings(nn.Module):
    """Linear, norm, dropout."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        self.visn_fc = nn.Linear(config.region_size, config.hidden_size)
        self.visn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, cells: Tensor, rows: Tensor) -> Tensor:
        """[S, N, D] of [I, N, C]; rows: [S] the image of each."""
        return self.dropout(self.visn_layer_norm(self.visn_fc(cells))[rows])


class ClipVilEncoder(BertEncoder):
    """BERT's layers, and what makes the visual tokens."""

    def __init__(self, config: ClipVilConfig):
        super().__init__(config)
        self.visual_pos, self.visn_fc = GridPositions(config), CellEmbeddings(config)

    def see(self, image: LetterboxBatch) -> Tensor:
        """[S, N, D], each image seen once."""
        return self.visn_fc(*look(image, lambda pixels: self.visual_pos(self.visual_model(pixels))))


class ClipVilModel(nn.Module):
    """Embeddings, encoder and pooler."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        self.embeddings, self.encoder = TextEmbeddings(config), ClipVilEncoder(config)
        self.pooler = BertPooler(config.hidden_size)


class ClipVil(RegionStudent):
    """CLIP-ViL with a head for a task of one image: `classes` outputs, one for each choice."""

    def __init__(self, config: ClipVilConfig, *, classes: int, target: str):
        super().__init__(config, target)
        self.bert = ClipVilModel(config)
        width = config.hidden_size
        self.classifier = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width, eps=config.layer_norm_eps),
            nn.Linear(2 * width, classes),
        )
        init_weights(self, initial_std(width))
        # Behind it: CLIP's networks begin otherwise than BERT.
        self.bert.encoder.visual_model = GridTower(config)

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view, whose image are the cells."""
        text, model = batch.text, self.bert
        seen = model.encoder.see(batch.image_for_each_text(0))
        words = model.embeddings(replace(text, segments=text.segments.clamp(max=1)))
        cells = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        encoded = encode(model.encoder, torch.cat([words, seen], dim=1), [text.mask, cells], visual=cells, capture=capture)
        return Output(by_record(self.classifier(model.pooler.dense(encoded.first)), batch), [encoded.view])
