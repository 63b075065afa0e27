"""What each student is given: how its text is laid out and how it sees images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vldistill.data.datasets import RecordDataset
from vldistill.data.images import Images
from vldistill.data.records import Record
from vldistill.data.regions.objects import ObjectIndex
from vldistill.data.regions.store import RegionStore
from vldistill.data.sequences import TextLayout
from vldistill.data.text import WordTokenizer
from vldistill.data.transforms import ImageTransform
from vldistill.data.visual import LetterboxInput, NoImages, PatchInput, PixelInput, RegionInput, VisualInput
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.families import family_of
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
