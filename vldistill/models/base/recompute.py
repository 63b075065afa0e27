"""Gradient checkpointing: what a Transformer's layer computes is not kept for the backward pass but computed once more there, for
memory of one layer instead of all, at the price of about a third more time (Chen et al., 2016, arXiv:1604.06174).

An encoder that can do it has an attribute `recompute`, off by default, and calls its layers by `run_layer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run_layer(layer: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """layer(*inputs). recompute: keep only inputs and outputs where a backward pass may follow; dropout draws the same again."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


def set_recompute(model: nn.Module) -> bool:
    """Turns it on in all encoders of a model; whether there was one."""
    encoders = [module for module in model.modules() if hasattr(module, "recompute")]
    for module in encoders:
        module.recompute = True
    return bool(encoders)
