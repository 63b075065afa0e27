"""Autocast on the virtual device, by CUDA's own rules: which operations it lowers, and which it keeps in fp32.

torch has such kernels for real devices alone. Here each operation that has one for CUDA gets one in Python, which casts what
comes in and goes on below autocast, so that autograd sees the casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_map

KEY = "AutocastPrivateUse1"
LOWERED = {
    "_convolution",
    "_cudnn_rnn",
    "_scaled_dot_product_flash_attention",
    "_thnn_fused_gru_cell",
    "_thnn_fused_lstm_cell",
    "addbmm",
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "bmm",
    "chain_matmul",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
    "cudnn_convolution",
    "cudnn_convolution_transpose",
    "einsum",
    "gru_cell",
    "linalg_multi_dot",
    "linalg_vecdot",
    "linear",
    "lstm_cell",
    "matmul",
    "mm",
    "mv",
    "prelu",
    "rnn_relu_cell",
    "rnn_tanh_cell",
    "scaled_dot_product_attention",
}
PROMOTED = {
    "addcdiv",
    "addcmul",
    "atan2",
    "bilinear",
    "cross",
    "dot",
    "grid_sampler",
    "index_put",
    "scatter_add",
    "tensordot",
    "vdot",
}
REFUSED = {"binary_cross_entropy"}
"""All others that CUDA has a kernel for are computed in fp32."""
_kept: list[torch.library.Library] = []  # a kernel goes with its library


def operations() -> Iterator[torch._ops.OpOverload]:
    """Those that autocast changes on CUDA."""
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA"):
            plain, _, overload = name.removeprefix("aten::").partition(".")
            yield getattr(getattr(torch.ops.aten, plain), overload or "default")


def install(device: str) -> None:
    """For tensors of this device, the type of PrivateUse1."""
    others, own = torch.library.Library("_", "IMPL", KEY), torch.library.Library("aten", "IMPL", KEY)
    others.fallback(torch.library.fallthrough_kernel)
    for operation in operations():
        own.impl(operation, _kernel(operation, device))
    _kept.extend((others, own))


def cast(value: Any, dtype: torch.dtype, device: str) -> Any:
    """What autocast casts: floating-point tensors of the device, but for doubles."""
    if isinstance(value, torch.Tensor) and value.device.type == device and value.is_floating_point():
        return value if value.dtype in (dtype, torch.float64) else value.to(dtype)
    return value


def _kernel(operation: torch._ops.OpOverload, device: str) -> Callable:
    name = operation.overloadpacket.__name__
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if name in REFUSED:
            raise RuntimeError(f"{name} is unsafe to autocast")
        dtype = torch.get_autocast_dtype(device) if name in LOWERED else torch.float32
        if name in PROMOTED:
            floats = [one.dtype for one in torch.utils._pytree.tree_leaves((args, kwargs)) if _counts(one, device)]
            dtype = torch.float32 if torch.float32 in floats else torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(below):
            args, kwargs = tree_map(lambda one: cast(one, dtype, device), (args, kwargs))
            return operation(*args, **kwargs)

    return kernel


def _counts(value: Any, device: str) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == device and value.is_floating_point()
