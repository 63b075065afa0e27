"""The methods, by the kind of a recipe's `objective`."""

from __future__ import annotations

from vldistill.training.methods.advl import AdvlMethod
from vldistill.training.methods.base import Method
from vldistill.training.methods.dide import Dide
from vldistill.training.methods.labels import Labels
from vldistill.training.methods.pretrain import Pretrain
from vldistill.training.methods.retrieval import Retrieval

METHODS: dict[str, Method] = {
    "labels": Labels(),
    "dide": Dide(),
    "advl": AdvlMethod(),
    "pretrain": Pretrain(),
    "retrieval": Retrieval(),
}
"""A kind that is not here is an error, and never trains on labels instead."""
