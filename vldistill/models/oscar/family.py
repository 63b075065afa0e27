"""OSCAR, and the dual encoder that comes from it."""

from __future__ import annotations

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import DualFamily, Family, FusionFamily, StudentRequest
from vldistill.models.base.region_student import region_sizes
from vldistill.models.oscar.model import Oscar, OscarConfig, OscarDual
from vldistill.models.oscar.section import OscarDualSection, OscarSection


class _OscarSizes(Family):
    config = OscarConfig

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> OscarConfig:
        return region_sizes(OscarConfig, request, tokenizer)


class OscarFamily(_OscarSizes, FusionFamily):
    section = OscarSection
    model = Oscar
    one_stream = True


class OscarDualFamily(_OscarSizes, DualFamily):
    section = OscarDualSection
    model = OscarDual
    crosses = True
    start = "name an oscar or oscar_dual model"
