"""OSCAR, and the dual encoder that comes from it."""

from __future__ import annotations

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import DualFamily, Family, FusionFamily
from vldistill.models.base.region_sizes import region_sizes
from vldistill.models.base.request import StudentRequest
from vldistill.models.oscar.dual import OscarDual
from vldistill.models.oscar.encoder import OscarConfig
from vldistill.models.oscar.fusion import Oscar
from vldistill.models.oscar.section import OscarDualSection, OscarSection


class _Sized(Family):
    config = OscarConfig

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> OscarConfig:
        return region_sizes(OscarConfig, request, tokenizer)


class OscarFamily(_Sized, FusionFamily):
    section = OscarSection
    model = Oscar
    one_stream = True


class OscarDualFamily(_Sized, DualFamily):
    section = OscarDualSection
    model = OscarDual
    crosses = True
    start = "name an oscar or oscar_dual model"
