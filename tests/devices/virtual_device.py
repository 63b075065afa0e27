"""A device that checks where tensors are, for machines without a GPU.

Every tensor on "virtual:0" is a wrapper whose device torch takes for an accelerator's, around the CPU tensor that holds its
values. All operations pass through one function, which compares the devices of their inputs as CUDA's kernels do and notes, by
the line of the package, what would wait for a GPU and what would be copied. Autocast is CUDA's (see `virtual_autocast`). Not seen
by it: kernels' own rounding, NCCL, memory.

`install` changes torch for the rest of the process: for programs of their own.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import virtual_autocast
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import vldistill

NAME = "virtual"
PACKAGE = f"{Path(vldistill.__file__).resolve().parent}/"
# A number without dimensions may come from the CPU where an operation goes element by element; in these it may not.
_NEVER_MIXED = {
    "cat",
    "stack",
    "bmm",
    "mm",
    "addmm",
    "baddbmm",
    "matmul",
    "linear",
    "dot",
    "convolution",
    "embedding",
    "gather",
    "scatter",
    "scatter_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "scatter_reduce_",
    "index_select",
    "index_add",
    "index_add_",
    "_softmax",
    "native_layer_norm",
    "searchsorted",
    "bucketize",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_COPYING = {"_to_copy", "copy_", "_copy_from", "copy", "to", "set_", "_foreach_copy_"}
_WAITING = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "bincount",
}
_RANDOM = {
    "native_dropout",
    "bernoulli_",
    "normal_",
    "uniform_",
    "randperm",
    "rand",
    "randint",
    "randn",
    "random_",
    "multinomial",
}


_OF_ONE_TYPE = {"native_layer_norm", "native_group_norm", "convolution"}
"""Operations whose floating-point inputs CUDA wants of one type, where the CPU's kernels take two."""


class DeviceMismatch(RuntimeError):
    """An operation that CUDA would refuse."""


class Log:
    """waits, copies: (what, place) of all operations that wait for the device or move values to and fro; launches: how many
    others there were."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self.launches = 0


log = Log()
_random_state = torch.Generator().manual_seed(0).get_state()


def place() -> str:
    """The innermost line of the package that is being run, else of anything that is not torch's."""
    frame, other = sys._getframe(1), "?"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE)}:{frame.f_lineno}"
        if other == "?" and "/torch/" not in name and name != __file__:
            other = f"{name.rpartition('site-packages/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return other


class Virtual(torch.Tensor):
    """A tensor on the device. inner: the CPU tensor with its values."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False):
        own = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        own.inner = inner
        return own

    def __init__(self, inner: torch.Tensor, requires_grad: bool = False):
        pass

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        """A module that is moved to another type gives its parameters new values so."""
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def __repr__(self, **_: Any) -> str:
        return f"Virtual({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Factories(TorchDispatchMode):
    """What makes tensors on the device from nothing, or moves plain ones there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        ours = _is(kwargs.get("device"), NAME) or any(isinstance(one, Virtual) for one in tree_flatten((args, kwargs))[0])
        return dispatch(func, args, kwargs) if ours else func(*args, **kwargs)


def _is(device: Any, kind: str) -> bool:
    return device is not None and torch.device(device).type == kind


def dispatch(func: Any, args: tuple, kwargs: dict) -> Any:
    """One operation: checked, noted and computed on the values. Raises DeviceMismatch."""
    name = func.overloadpacket.__name__
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    ours = [one for one in tensors if isinstance(one, Virtual)]
    wanted, left = _is(kwargs.get("device"), NAME), _is(kwargs.get("device"), "cpu")
    result_is_ours = bool(ours) or wanted
    if name in _COPYING:
        source = args[1] if name == "copy_" else args[0]
        result_is_ours = isinstance(args[0], Virtual) if name == "copy_" else wanted or (isinstance(source, Virtual) and not left)
        _note_copy(source, result_is_ours)
    else:
        _check(func, name, args, kwargs, tensors, ours, wanted)
        _note_wait(name, args, ours)
        log.launches += result_is_ours
    plain = {key: value.inner if isinstance(value, Virtual) else value for key, value in kwargs.items()}
    plain |= ({"device": torch.device("cpu")} if wanted else {}) | ({"pin_memory": False} if plain.get("pin_memory") else {})
    inner = tree_map(lambda one: one.inner if isinstance(one, Virtual) else one, args)
    drawn = result_is_ours and (name in _RANDOM or torch.Tag.nondeterministic_seeded in func.tags)
    if drawn:
        with _own_generator():
            out = func(*inner, **plain)
    else:
        out = func(*inner, **plain)
    if not result_is_ours or left or name in ("_local_scalar_dense", "is_nonzero", "equal"):
        return out
    if name == "_to_copy" and out.numel() and out.data_ptr() == inner[0].data_ptr():
        out = out.clone()
    out = tree_map(lambda one: Virtual(one) if isinstance(one, torch.Tensor) and not isinstance(one, Virtual) else one, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if ours else out


def _check(func: Any, name: str, args: tuple, kwargs: dict, tensors: list, ours: list, wanted: bool) -> None:
    types = {one.dtype for one in ours if one.is_floating_point()}
    if name in _OF_ONE_TYPE and len(types) > 1:
        raise DeviceMismatch(f"{func}: inputs of {' and '.join(sorted(map(str, types)))}, at {place()}")
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu" and (ours or wanted):
        raise DeviceMismatch(f"{func}: a CPU generator for a tensor of the device, at {place()}")
    for one in tensors if ours else []:
        if isinstance(one, Virtual) or (one.dim() == 0 and name not in _NEVER_MIXED):
            continue
        # Indices are moved; the tensor that is indexed, and what is put into it, are not.
        if name in _INDEXING and one is not args[0] and not (len(args) > 2 and one is args[2] and one.numel() > 1):
            log.copies["to the device, an index", place()] += one.numel() * one.element_size()
            continue
        raise DeviceMismatch(
            f"{func}: a CPU tensor {tuple(one.shape)} beside {[tuple(own.shape) for own in ours]} of the device, at {place()}"
        )


def _note_wait(name: str, args: tuple, ours: list) -> None:
    if not ours:
        return
    if name in _WAITING or (name == "repeat_interleave" and len(args) == 1):
        log.waits[name, place()] += 1
    if name in _INDEXING and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
        log.waits["an index by a mask", place()] += 1


def _note_copy(source: Any, result_is_ours: bool) -> None:
    size = source.numel() * source.element_size() if isinstance(source, torch.Tensor) else 0
    if result_is_ours and not isinstance(source, Virtual):
        log.copies["to the device", place()] += size
    elif isinstance(source, Virtual) and not result_is_ours:
        log.copies["from the device", place()] += size
        log.waits["a copy", place()] += 1


@contextmanager
def _own_generator():
    """The device draws from a state of its own, as a GPU does."""
    global _random_state
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(_random_state)
    try:
        yield
    finally:
        _random_state = torch.default_generator.get_state()
        torch.default_generator.set_state(before)


def _seed(seed: int) -> None:
    """As `torch.manual_seed` asks every device."""
    global _random_state
    _random_state = torch.Generator().manual_seed(seed).get_state()


def install() -> None:
    """Registers the device, and has those functions of torch that read values outside of its dispatcher know it."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.virtual.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # asked for by regions without autocast
    torch.virtual._is_in_bad_fork, torch.virtual.manual_seed_all = lambda: False, _seed
    # Wrappers that are made in inference mode have no version counter, which aliasing sets.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode is True else mode
    attend = torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if not isinstance(query, Virtual):
            return attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        math = torch.ops.aten._scaled_dot_product_attention_math
        if torch.is_autocast_enabled(NAME):
            lower = torch.get_autocast_dtype(NAME)
            query, key, value, attn_mask = (virtual_autocast.cast(one, lower, NAME) for one in (query, key, value, attn_mask))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # What is computed below adds a mask of whatever type.
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        with torch.autocast(NAME, enabled=False):
            return math(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)[0]

    torch.nn.functional.scaled_dot_product_attention = attention
    virtual_autocast.install(NAME)
    _know_values()
    _know_constructors()
    _Factories().__enter__()


def _know_values() -> None:
    tolist = torch.Tensor.tolist

    def own_tolist(self):
        if not isinstance(self, Virtual):
            return tolist(self)
        log.waits["tolist", place()] += 1
        return self.inner.detach().tolist()

    def refusing(method):
        def own(self, *args, **kwargs):
            if isinstance(self, Virtual):
                raise DeviceMismatch(f"a tensor of the device as an array, at {place()}")
            return method(self, *args, **kwargs)

        return own

    torch.Tensor.tolist = own_tolist
    torch.Tensor.numpy, torch.Tensor.__array__ = refusing(torch.Tensor.numpy), refusing(torch.Tensor.__array__)


def _know_constructors() -> None:
    from torch.utils import _device as constructors

    constructors._device_constructors()  # remembers the functions as they are
    tensor, as_tensor, new_tensor = torch.tensor, torch.as_tensor, torch.Tensor.new_tensor
    getitem, setitem = torch.Tensor.__getitem__, torch.Tensor.__setitem__

    def own_tensor(data, *, device=None, **more):
        return tensor(data, **more).to(NAME) if _is(device, NAME) else tensor(data, device=device, **more)

    def own_as_tensor(data, dtype=None, device=None):
        if _is(device, NAME) and not isinstance(data, torch.Tensor):
            return as_tensor(data, dtype=dtype).to(NAME)
        return as_tensor(data, dtype=dtype, device=device)

    def own_new_tensor(self, data, **more):
        if isinstance(self, Virtual):
            return tensor(data, dtype=more.pop("dtype", self.dtype), **more).to(NAME)
        return new_tensor(self, data, **more)

    def moved(self, index):
        """A list of numbers as an index is a tensor that is copied to the device."""
        if not isinstance(self, Virtual):
            return index
        one = [
            tensor(part).to(NAME) if isinstance(part, list) else part
            for part in (index if isinstance(index, tuple) else (index,))
        ]
        return tuple(one) if isinstance(index, tuple) else one[0]

    torch.tensor, torch.as_tensor, torch.Tensor.new_tensor = own_tensor, own_as_tensor, own_new_tensor
    torch.Tensor.__getitem__ = lambda self, index: getitem(self, moved(self, index))
    torch.Tensor.__setitem__ = lambda self, index, value: setitem(self, moved(self, index), value)
