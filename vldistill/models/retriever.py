"""Models that can rank images and texts: any dual encoder of one image, and a ViLT with a head for it."""

from __future__ import annotations

from vldistill.data.batch import RANK
from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import Checkpoint, ModelSpec, fusion_encoder_weights, load_strict, read_checkpoint
from vldistill.models.base.fusion import Fusion
from vldistill.models.base.pretraining import HEADS, head_weights
from vldistill.models.build import Student, model_of
from vldistill.models.families import family_of


def load_retriever(source: str) -> tuple[Student, ModelSpec, WordTokenizer]:
    """Reads a model in evaluation mode, whatever it was trained for: a dual encoder compares its vectors, a ViLT scores pairs by
    its rank head, or by what its head for image-text matching says. `source`: a run, a model folder or a hub name.

    Raises InputError where the model can do neither.
    """
    checkpoint = read_checkpoint(source)
    spec, where = checkpoint.spec, str(checkpoint.folder)
    if spec.images != 1:
        raise InputError(f"takes {spec.images} images a record, so it cannot rank them", where=where, hint=_HINT)
    family = family_of(spec.kind)
    if family.section.ranks == "vectors":
        return model_of(checkpoint)
    if family.section.ranks != "pairs":
        raise InputError(f"is a {spec.kind} model, which cannot rank images and texts", where=where, hint=_HINT)
    model = family.model(spec.encoder, images=1, classes=0, pretraining=(RANK,))
    load_strict(model, _ranking_weights(model, checkpoint), where)
    return model.eval(), spec, load_tokenizer(checkpoint.folder)


_HINT = "name a run of objective `retrieval`, or a dual encoder pre-trained with cmc"


def _ranking_weights(model: Fusion, checkpoint: Checkpoint) -> dict:
    (tower,) = model.towers
    encoder = fusion_encoder_weights(checkpoint, tower)
    heads = head_weights(checkpoint.weights, encoder[getattr(model, tower).words])
    head = {name: value for name, value in heads.items() if name.startswith(f"{HEADS[RANK]}.")}
    if not head:
        raise InputError(f"has neither {HEADS[RANK]} nor itm_score, so it cannot rank", where=str(checkpoint.folder), hint=_HINT)
    return {f"{tower}.{name}": value for name, value in encoder.items()} | head
