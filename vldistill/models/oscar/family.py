"""OSCAR, and the dual encoder that comes from it."""

from __future__ import annotations

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import DualFamily, Family, FusionFamily
from vldistill.models.base.region_sizes import region_sizes
from vldistill.models.base.request import Sizes, StudentRequest
from vldistill.models.oscar.dual import OscarDual
from vldistill.models.oscar.encoder import OscarConfig
from vldistill.models.oscar.fusion import Oscar


class _Sized(Family):
    config = OscarConfig
    sees = "regions"

    def scratch(self, request: StudentRequest, sizes: Sizes, tokenizer: WordTokenizer) -> OscarConfig:
        return region_sizes(OscarConfig, request, sizes, tokenizer)


class OscarFamily(_Sized, FusionFamily):
    kind = "oscar"
    model = Oscar
    one_stream = True


class OscarDualFamily(_Sized, DualFamily):
    kind = "oscar_dual"
    model = OscarDual
    fusion = "oscar"
    crosses = True
    start = "name an oscar or oscar_dual model"
