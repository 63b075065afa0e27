"""What each student is given: how its text is laid out, with tags that name objects, and how it sees images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vldistill.data.datasets import RecordDataset
from vldistill.data.images import Images
from vldistill.data.records import Record
from vldistill.data.regions.objects import ObjectIndex
from vldistill.data.regions.store import RegionStore
from vldistill.data.sequences import EncodedText, TextLayout, shorten
from vldistill.data.text import WordTokenizer
from vldistill.data.transforms import ImageTransform
from vldistill.data.visual import LetterboxInput, NoImages, PatchInput, PixelInput, RegionInput, VisualInput
from vldistill.data.wording import Phrase
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.family import family_of
from vldistill.store.uses import REGIONS
from vldistill.versions import differences, tell


def text_layout(spec: ModelSpec, tokenizer: WordTokenizer) -> TextLayout:
    """How the student reads text."""
    return family_of(spec.kind).text_layout(tokenizer, spec.max_length)


def visual_input(
    spec: ModelSpec,
    images: Images,
    *,
    paths: Iterable[str] = (),
    augment: str = "none",
    shift: int = 1,
    noise: float = 0.0,
    memory: bool | None = None,
    objects: ObjectIndex | None = None,
) -> VisualInput:
    """How the student sees images: as patches or pixels, augmented, whole, or as the regions of its store. objects: of the
    images.

    Raises InputError where there is no store or its features have another width than the student expects, or where there are no
    objects and the student makes its own features of them.
    """
    family = family_of(spec.kind)
    if family.sees == "nothing":
        return NoImages()
    images = images.turned(upright=True) if spec.upright else images
    if family.sees == "letterbox":
        return LetterboxInput(images, spec.image_size, spec.encoder.long_side)
    if family.sees == "patches":
        transform = ImageTransform(
            spec.image_size,
            spec.encoder.patch_size,
            augment,
            shift,
            noise,
            square=family.square,
            crop_ratio=getattr(spec.encoder, "crop_ratio", 1.0),
        )
        return PatchInput(images, transform, paths, memory)
    if spec.image_network is not None:
        if objects is None:
            raise InputError(
                f"a {spec.kind} student trained end to end needs the boxes of objects",
                hint="give data that has them, as `vldistill prepare vcr` makes it, or train it over `regions`",
            )
        return PixelInput(images, objects, spec.image_network, most=spec.most_regions, flip=augment == "flip")
    if spec.regions is None:
        raise InputError(
            f"a {spec.kind} student needs region features", hint="set regions.path to what `vldistill prepare regions` made"
        )
    store = RegionStore(Path(spec.regions))
    again = REGIONS.mend(store.folder, store.manifest)
    tell(differences(store.manifest), spec.regions, again)
    if store.width != spec.encoder.region_size:
        raise InputError(
            f"has {store.width} features a region, the {spec.kind} student expects {spec.encoder.region_size}",
            where=spec.regions,
            hint="import the features that its checkpoint was trained with",
        )
    return RegionInput(store, spec.most_regions)


def plain_dataset(
    records: list[Record], images: Images, tokenizer: WordTokenizer, spec: ModelSpec, objects: ObjectIndex | None = None
) -> RecordDataset:
    """Records as a trained model reads them, without augmentation and without targets."""
    visual = visual_input(spec, images, objects=objects)
    return RecordDataset(records, text_layout(spec, tokenizer), visual, pad_id=tokenizer.pad_id)


PERSON = "person"


@dataclass(frozen=True)
class Unit:
    """What is tokenized at once. text: to be split into pieces, or a token id. word: its index. tag: the object that it names."""

    text: str | int
    word: int
    tag: int | None = None


Part = list[tuple[int, int | None, int | None]]
"""(token id, word, tag) of each token."""


def written(tokenizer: WordTokenizer, phrase: Phrase, first: int) -> Part:
    """The tokens of a text. first: the index of its first word."""
    return [(token, None if word is None else first + word, None) for token, word in zip(*tokenizer.pieces(phrase), strict=True)]


def tokenize(tokenizer: WordTokenizer, units: list[Unit]) -> Part:
    """The tokens of units, in order."""
    texts = [place for place, unit in enumerate(units) if isinstance(unit.text, str)]
    pieces: dict[int, list[int]] = {place: [] for place in texts}
    for token, place in zip(*tokenizer.pieces([units[place].text for place in texts]), strict=True):
        pieces[texts[place]].append(token)
    return [(token, unit.word, unit.tag) for place, unit in enumerate(units) for token in pieces.get(place, [unit.text])]


def assemble(tokenizer: WordTokenizer, parts: list[Part], segments: list[int], max_length: int, *, ahead: bool) -> EncodedText:
    """[CLS] part [SEP] part [SEP] ..., shortened as `PlainLayout` does. segments: of each part. ahead: whether a separator
    between parts counts with the part behind it."""
    kept = shorten([len(part) for part in parts], max_length - 1 - len(parts))
    ids, words, kinds, tags = [tokenizer.cls_id], [None], [segments[0]], [None]
    for place, (part, length) in enumerate(zip(parts, kept, strict=True)):
        ids += [*(token for token, _, _ in part[:length]), tokenizer.sep_id]
        words += [*(word for _, word, _ in part[:length]), None]
        tags += [*(tag for _, _, tag in part[:length]), None]
        following = segments[place + 1] if ahead and place + 1 < len(parts) else segments[place]
        kinds += [*[segments[place]] * length, following]
    return EncodedText(ids, words, kinds, tags)
