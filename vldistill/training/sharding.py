"""Students too large for one device: each process holds its share of every weight, gradient and moment, and gathers a layer's
weights for as long as it computes (FSDP; Zhao et al., 2023, arXiv:2304.11277; torch's `fully_shard`).

A student is its own root and not a part of the learner's, since validation calls it alone and ADVL's two steps train it in two
learners. What an objective learns is small: every process holds all of it, and gradients are averaged as by DDP.

torch's sharding takes a second to import, which only a training that shares a student out has to wait for.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vldistill.errors import needed
from vldistill.runtime import reduced

_METHODS = ("encode_text", "encode_image")
"""What is called of a student besides `forward`."""


def shard(student: nn.Module, accelerator: Accelerator) -> None:
    """Shares the student's weights out over all processes, in place: those of a list of layers layer by layer, the others
    together. They must be the same on all processes. An optimiser must be built afterwards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Nothing that a student returns is written into.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for layer in _layers(student):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(student, mesh=mesh, reshard_after_forward=False)
    for name in _METHODS:
        if hasattr(student, name):
            register_fsdp_forward_method(student, name)


def _layers(module: nn.Module) -> Iterable[nn.Module]:
    """The elements of the outermost lists, but for those that are no layers or compute otherwise than by being called."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (
                layer for layer in child if not isinstance(layer, nn.ModuleDict) and not getattr(layer, "asked_in_parts", False)
            )
        else:
            yield from _layers(child)


@contextmanager
def weights_together(student: nn.Module) -> Iterator[None]:
    """All weights on all processes meanwhile, so that each can compute by itself: in validation one may have a batch more than
    another, and nobody would answer it. Without gradients alone; a student that is not shared out is left as it is."""
    parts: list[Any] = [module for module in student.modules() if is_sharded(module)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not student, recurse=False)


def is_sharded(module: nn.Module) -> bool:
    return _is_a(module, "torch.distributed.fsdp", "FSDPModule")


def _is_share(value: Tensor) -> bool:
    return _is_a(value, "torch.distributed.tensor", "DTensor")


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether it is of a class of a module that is not imported for the question: before its import there are none."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def average_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Each gradient's mean over all processes, for a module that no wrapper synchronises."""
    if accelerator.num_processes > 1:
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(reduced(accelerator, parameter.grad, "mean"))


def spread(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """The first process's values for all, in place."""
    if accelerator.num_processes > 1:
        for value in tensors:
            torch.distributed.broadcast(value.detach(), src=0)


def clip_gradients(module: nn.Module, accelerator: Accelerator, most: float) -> Tensor:
    """Scales all gradients down to a norm of at most `most`; their norm before, a scalar."""
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    if not any(_is_share(parameter) for parameter in parameters):
        return needed(accelerator.clip_grad_norm_(parameters, most), "the norm")
    # A norm over shares and whole tensors together is refused.
    apart = [[one for one in parameters if _is_share(one) == shared] for shared in (True, False)]
    apart = [some for some in apart if some]
    gradients = [[one.grad for one in some if one.grad is not None] for some in apart]
    norm = torch.stack([whole(nn.utils.get_total_norm(some)) for some in gradients]).norm()
    for some in apart:
        nn.utils.clip_grads_with_norm_(some, most, norm)
    return norm


def whole(value: Tensor) -> Tensor:
    """A tensor of which processes hold shares, gathered; all of them must ask. Any other as it is."""
    return cast(Any, value).full_tensor() if _is_share(value) else value


def gathered(tensors: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """The tensors with those whole of which processes hold shares: on the CPU, one by one, so that no device holds more than one;
    empty but on the first process. All processes must ask, with the same names in the same order."""
    held = {}
    for name, value in tensors.items():
        full = whole(value).cpu() if _is_share(value) else value
        if accelerator.is_main_process:
            held[name] = full
    return held


def shared_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of a whole tensor that belongs to a parameter, which is the same on all processes."""
    if not _is_share(parameter) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    here = value.to(parameter.device)
    whole_one = cast(Any, parameter)
    return distribute_tensor(here, whole_one.device_mesh, whole_one.placements, src_data_rank=None)
