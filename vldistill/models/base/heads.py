"""Task heads: Linear, LayerNorm, GELU, Linear, as ViLT and DiDE have them for VQA, SNLI-VE and NLVR2, or the norm behind; and
the heads of tasks without labels, pre-training's and retrieval's, under the names that ViLT's checkpoints give them."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from vldistill.data.batch import IGNORED, ITM, MLM, RANK, Pretext


def classifier(inputs: int, hidden: int, classes: int, *, width: int) -> nn.Sequential:
    """A head with indices 0 (Linear), 1 (LayerNorm), 2 (GELU), 3 (Linear); `width` is the encoder's, for `initial_std`."""
    head = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))
    init_weights(head, initial_std(width))
    return head


def late_norm_classifier(inputs: int, hidden: int, classes: int, *, eps: float, middle: nn.Module | None = None) -> nn.Sequential:
    """UNITER's and LXMERT's: Linear, GELU or `middle`, LayerNorm, Linear. Its weights are left as they are drawn."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), middle or nn.GELU(), nn.LayerNorm(hidden, eps=eps), nn.Linear(hidden, classes)
    )


def initial_std(width: int) -> float:
    """BERT's 0.02 at its width of 768, and in proportion to 1 / sqrt(width) elsewhere: with 0.02 at width 64 the signal
    dies out and a small model stays at chance."""
    return 0.02 * (768 / width) ** 0.5


def init_weights(network: nn.Module, std: float) -> None:
    """N(0, std) for linear, convolution and embedding weights, zero biases, identity norms."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


HEADS = {MLM: "mlm_score", ITM: "itm_score", RANK: "rank_output"}
"""Of each task that has one, the attribute of a model that holds it."""
_MATCHED = 1
"""The row of ITM's head that says "matched"."""
_BIAS, _DECODER = "mlm_score.bias", "mlm_score.decoder."


class MaskedLanguageHead(nn.Module):
    """Linear, GELU, norm, then a Linear to the vocabulary."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.transform = nn.Module()
        self.transform.dense, self.transform.LayerNorm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.decoder = nn.Linear(width, vocabulary)
        init_weights(self, initial_std(width))

    def forward(self, states: Tensor) -> Tensor:
        """[M, D] to [M, V]."""
        return self.decoder(self.transform.LayerNorm(nn.functional.gelu(self.transform.dense(states))))


class MatchingHead(nn.Module):
    """A Linear to two classes: not matched, matched."""

    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        init_weights(self, initial_std(width))

    def forward(self, vectors: Tensor) -> Tensor:
        """[K, D] to [K, 2]."""
        return self.fc(vectors)


class RankHead(nn.Linear):
    """A Linear to one score: how well image and text belong together."""

    def __init__(self, width: int):
        super().__init__(width, 1)
        init_weights(self, initial_std(width))


class Pretrained(nn.Module):
    """A model that may have heads of tasks without labels."""

    def add_heads(self, tasks: Collection[str], width: int, vocabulary: int, matched: int | None = None) -> None:
        """width: of states; matched: of the vectors that a pair is judged by, the same where None."""
        self.mlm_score = MaskedLanguageHead(width, vocabulary) if MLM in tasks else None
        self.itm_score = MatchingHead(matched or width) if ITM in tasks else None
        self.rank_output = RankHead(matched or width) if RANK in tasks else None

    def hidden_words(self, states: Tensor, batch: Pretext) -> Tensor | None:
        """states: [K, T, D] final states of the texts of MLM's pairs. [M, V] logits of their hidden tokens alone, or None
        where the batch does not ask."""
        return self.mlm_score(states[batch.hidden_words() != IGNORED]) if MLM in batch.rows else None

    def matching(self, vectors: Tensor, batch: Pretext) -> Tensor | None:
        """vectors: [K, D] of ITM's pairs. [K, 2] logits, or None where the batch does not ask."""
        return self.itm_score(vectors) if ITM in batch.rows else None


def head_weights(weights: dict[str, Tensor], embeddings: Tensor) -> dict[str, Tensor]:
    """Those of a checkpoint that belong to `HEADS`. A decoder that is not there is tied to the word embeddings [V, D], and its
    bias has had a name of its own; a rank head that is not there is what ITM's head says of "matched" (ViLT, section 4.4)."""
    heads = {name: value for name, value in weights.items() if name.startswith(tuple(f"{head}." for head in HEADS.values()))}
    if _BIAS in heads:
        bias = heads.pop(_BIAS)
        heads.setdefault(f"{_DECODER}bias", bias)
    if f"{_DECODER}bias" in heads:
        heads.setdefault(f"{_DECODER}weight", embeddings)
    for kind in ("weight", "bias"):
        if (matching := heads.get(f"{HEADS[ITM]}.fc.{kind}")) is not None:
            heads.setdefault(f"{HEADS[RANK]}.{kind}", matching[_MATCHED : _MATCHED + 1])
    return heads
