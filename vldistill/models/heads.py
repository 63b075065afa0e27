"""Task heads: Linear, LayerNorm, GELU, Linear, as ViLT and DiDE have them for VQA, SNLI-VE and NLVR2."""

from __future__ import annotations

from torch import nn


def classifier(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """A head with indices 0 (Linear), 1 (LayerNorm), 2 (GELU), 3 (Linear), weights N(0, 0.02), biases 0."""
    head = nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))
    head.apply(init_weights)
    return head


def init_weights(module: nn.Module) -> None:
    """BERT's initialisation: N(0, 0.02) for linear and embedding weights, zero biases, identity norms."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
