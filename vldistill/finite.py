"""Numbers that are not finite are told where they come in, with weights, and where they go out, as answers or vectors.

A model with one such weight answers all the same: its probabilities are NaN, the largest of them is the first label, and nothing
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vldistill.errors import InputError, VldistillError

_MOST_SHOWN = 8


def check_weights(weights: Mapping[str, Tensor], where: str) -> None:
    """Raises InputError naming the first weight that holds NaN or infinity, and how many do."""
    faulty = {name: value for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()}
    if not faulty:
        return
    name, value = next(iter(faulty.items()))
    count, more = int((~value.isfinite()).sum()), f"; so are parts of {len(faulty) - 1} more weights" * (len(faulty) > 1)
    raise InputError(
        f"{count:,} of {value.numel():,} numbers of {name} are not finite{more}",
        where=where,
        hint="the file is damaged, or its training diverged: fetch or make it again",
    )


def check_outputs(values: Tensor, ids: Sequence[str], where: str = "") -> None:
    """values: [B, ...] of as many records. Raises VldistillError naming those whose values are not all finite."""
    finite = values.isfinite().flatten(1).all(dim=1)
    if finite.all():
        return
    faulty = [one for one, good in zip(ids, finite.tolist(), strict=True) if not good]
    more = f" and {len(faulty) - _MOST_SHOWN} more" if len(faulty) > _MOST_SHOWN else ""
    raise VldistillError(
        f"gives numbers that are not finite for {', '.join(faulty[:_MOST_SHOWN])}{more}",
        where=where or "the model",
        hint="its weights are finite but too large: compute in fp32, or train it again with a lower optim.lr",
    )
