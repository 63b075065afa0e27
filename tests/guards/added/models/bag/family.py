"""A bag of words and patches as a family."""

from __future__ import annotations

from vldistill.data.text import WordTokenizer
from vldistill.models.bag.model import Bag, BagConfig
from vldistill.models.bag.section import BagSection
from vldistill.models.base.family import PlainFamily
from vldistill.models.base.family import StudentRequest


class BagFamily(PlainFamily):
    section = BagSection
    model = Bag
    config = BagConfig
    one_image = True

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> BagConfig:
        sizes = request.section.sizes
        return BagConfig(len(tokenizer.vocabulary), sizes.width, sizes.patch, request.dropout, request.max_length)
