"""Task heads: Linear, LayerNorm, GELU, Linear, as ViLT and DiDE have them for VQA, SNLI-VE and NLVR2; or the norm behind."""

from __future__ import annotations

from torch import nn


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
