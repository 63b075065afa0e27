"""`prepare regions`: published region features, or those of an ImageNet backbone, become a region store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vldistill import artifacts
from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.image_files import check_images
from vldistill.data.images import ImageFolder
from vldistill.data.inputs import inputs_signature, settled
from vldistill.data.regions import importers
from vldistill.data.regions.arrays import checked, databases, is_grid, selected
from vldistill.data.regions.store import DETECTOR, IMPORTED, VLBERT, ImageRegions, RegionStore, RegionWriter, image_key
from vldistill.devices import compute_device
from vldistill.errors import IMAGE, InputError, Problems
from vldistill.store.layout import LAYOUT
from vldistill.store.uses import REGIONS
from vldistill.versions import package_versions

if TYPE_CHECKING:
    from vldistill.data.regions.extract import Boxes

MOST_FAULTS = 1000
FORMATS: dict[str, Callable[[Path, importers.Reading], Iterator[importers.Entry]]] = {
    "uniter-lmdb": importers.read_uniter_lmdb,
    "npz": importers.read_npz_folder,
    "tsv": importers.read_tsv,
    "oscar": importers.read_oscar,
    "vl-bert": importers.read_vlbert,
}


# What a format comes as; the others come as either.
_FOLDERS, _SINGLE = {"npz"}, {"tsv", "oscar"}
# Published of bottom-up attention alone.
_DETECTORS = {"tsv", "oscar", "vl-bert"}


@dataclass(frozen=True)
class BoxRule:
    """Which boxes of an image are kept: those above `threshold`, but `fewest` to `most` (UNITER's 0.2, 10 and 100)."""

    threshold: float = 0.2
    fewest: int = 10
    most: int = 100

    def check(self) -> None:
        """Raises InputError for numbers that cannot be."""
        if not 0 <= self.threshold <= 1 or not 1 <= self.fewest <= self.most:
            raise InputError(
                f"--threshold {self.threshold:g} --boxes {self.fewest},{self.most} cannot be met",
                hint="--threshold 0.2 --boxes 10,100",
            )


def detect_format(path: Path) -> str:
    """The format of feature files, by their names. Raises InputError where they look like none."""
    if not path.exists():
        raise InputError("no such file or folder", where=str(path), hint="give the feature files")
    if path.is_dir():
        if databases(path):
            return "uniter-lmdb"
        if next(path.glob("*.npz"), None) is not None:
            return "npz"
        # Beside UNITER's databases lie counts of their boxes.
        if any(not file.name.startswith("nbb_") for file in path.glob("*.json")):
            return "vl-bert"
    else:
        for name, suffixes in (("tsv", {".tsv"}), ("oscar", {".pt", ".pth"}), ("vl-bert", {".zip"}), ("uniter-lmdb", {".mdb"})):
            if path.suffix.lower() in suffixes:
                return name
    raise InputError(
        "does not look like region features",
        where=str(path),
        hint="data.mdb, .npz or .json files in a folder, or a .tsv, .pt or .zip file; see --format",
    )


@dataclass(frozen=True)
class Target:
    """What is made. out: the store. limit: the first N images. dry_run: everything but the writing. progress(images so far).
    problems: takes the faults. skip_broken: share of the images that may be left out for a fault of theirs."""

    out: Path
    limit: int | None = None
    overwrite: bool = False
    dry_run: bool = False
    progress: Callable[[int], None] | None = None
    problems: Problems = field(default_factory=Problems)
    skip_broken: float = 0.0

    @property
    def lenient(self) -> Problems | None:
        """What takes the images that cannot be read; None where they are to end everything."""
        return self.problems if self.skip_broken else None


def import_regions(raw: Path, target: Target, *, kind: str | None = None, rule: BoxRule | None = None) -> dict[str, Any]:
    """Reads feature files into a store; returns its manifest. kind: a key of FORMATS, None to go by the files.

    A store that was made of the same files in the same way is kept (`unchanged` in the manifest returned). Raises InputError
    with every fault found; nothing is then left behind.
    """
    rule = rule or BoxRule()
    rule.check()
    if kind is not None and kind not in FORMATS:
        raise InputError(f"--format {kind} is not known", hint=f"one of {', '.join(FORMATS)}")
    kind = kind or detect_format(raw)
    if not raw.exists():
        raise InputError("no such file or folder", where=str(raw), hint="give the feature files")
    if (raw.is_dir() and kind in _SINGLE) or (raw.is_file() and kind in _FOLDERS):
        actual, expected = ("folder", "file") if raw.is_dir() else ("file", "folder")
        raise InputError(f"is a {actual}, {kind} comes as a {expected}", where=str(raw), hint="mend --raw or --format")
    problems = target.problems

    def entries(writer: RegionWriter) -> Iterator[importers.Entry]:
        for where, name, regions in FORMATS[kind](raw, importers.Reading(problems, writer)):
            if regions is not None:
                # Noted with the rows: of those that are there already the boxes are not looked at again.
                writer.notes["grids"] = writer.notes.get("grids", True) and is_grid(regions.boxes)
                regions = selected(regions, rule.threshold, rule.fewest, rule.most)
            yield where, name, regions

    def made_by(writer: RegionWriter) -> str:
        """A detector, where the files have what only one gives, or a layout that only one is published in."""
        _, classes, confidence, _ = writer.shape
        detected = classes is not None or confidence or kind in _DETECTORS
        return DETECTOR if detected and not writer.notes["grids"] else IMPORTED

    options = {"format": kind, "threshold": rule.threshold, "boxes": [rule.fewest, rule.most]}
    return _build(entries, target, raw, options, made_by, inputs_signature(raw))


def extract_regions(
    data: Path, target: Target, *, weights: str | None = None, grid: int | None = None, network: str = "timm", batch: int = 8
) -> dict[str, Any]:
    """Computes features of a data artifact's images with ResNet-101 (see `regions.extract`) into a store; returns its manifest.

    grid: G x G cells instead of the boxes that the artifact has (VCR's); without either, 6 x 6. network: a key of NETWORKS, of
    which VL-BERT's sees the artifact's own objects. batch: images at once. Errors as `import_regions`.
    """
    if network not in NETWORKS:
        raise InputError(f"--network {network} is not known", hint=f"one of {', '.join(NETWORKS)}")
    artifact = open_data(data)
    # Boxes are cut to the limit before features are computed, which do not come in the order of the images.
    options, features, compute = NETWORKS[network](artifact, weights, grid, target, batch)
    options["weights"] = weights or "hub"
    if weights and Path(weights).is_file():
        # A name says nothing of what is in the file.
        options["weights_sha256"] = artifacts.file_digest(Path(weights))
    features = "random" if weights == "random" else features

    def entries(writer: RegionWriter) -> Iterator[importers.Entry]:
        for path, regions in compute(writer):
            yield path, path, replace(regions, own=len(regions.boxes)) if options["boxes"] == "annotated" else regions

    # Not the folder's files: an artifact may be given variants and shards, and is the same.
    return _build(entries, target, data, options, features, artifact.fingerprint)


Found = tuple[dict[str, Any], str, Callable[[RegionWriter], Iterator[tuple[str, ImageRegions]]]]
"""Options that decide the features, what they are called, and what computes those that a store lacks."""


# torch and timm are slow to import, and importing features needs neither.


def _with_timm(artifact: DataArtifact, weights: str | None, grid: int | None, target: Target, batch: int) -> Found:
    from vldistill.data.regions.extract import BACKBONE, boxes_of, build_backbone, extract

    boxes, source = boxes_of(artifact, grid, target.limit)

    def compute(writer: RegionWriter) -> Iterator[tuple[str, ImageRegions]]:
        wanted = _whole(artifact, boxes(target.problems), target, writer)
        network, device = build_backbone(weights), compute_device()
        return extract(network, artifact.images, wanted, device=device, batch=batch, problems=target.lenient)

    return {"boxes": source}, BACKBONE, compute


def _with_vlbert(artifact: DataArtifact, weights: str | None, grid: int | None, target: Target, batch: int) -> Found:
    from vldistill.data.regions.extract import boxes_of, build_vlbert, extract_vlbert

    objects = artifact.objects
    if grid is not None or objects is None:
        raise InputError(
            f"--network vlbert sees a data set's objects, {'a grid' if grid else 'this one'} has none",
            where=str(artifact.folder),
            hint="leave --network out",
        )
    if weights is None:  # no hub has them
        raise InputError("--network vlbert needs --weights", hint="name the file of bottom-up attention's ResNet-101")
    boxes, _ = boxes_of(artifact, None, target.limit)

    def compute(writer: RegionWriter) -> Iterator[tuple[str, ImageRegions]]:
        paths = [one.path for one in _whole(artifact, boxes(target.problems), target, writer)]
        network, device = build_vlbert(weights), compute_device()
        return extract_vlbert(network, artifact.images, objects, paths, device=device, batch=batch, problems=target.lenient)

    return {"boxes": "annotated", "network": VLBERT}, VLBERT, compute


def _whole(artifact: DataArtifact, boxes: list[Boxes], target: Target, writer: RegionWriter) -> list[Boxes]:
    """Those whose images have no features yet, and are there and whole: all are looked at before features of the first are
    computed; those in shards are as they were packed. Raises InputError with all faults where more are broken than may be left
    out."""
    wanted, images = [one for one in boxes if image_key(one.path) not in writer], artifact.images
    there = paths = [one.path for one in wanted]
    if isinstance(images, ImageFolder):
        links = bool(artifact.manifest.get("options", {}).get("follow_links"))
        there = check_images(
            images.root,
            paths,
            target.problems,
            dict.fromkeys(paths, str(artifact.folder)),
            follow_links=links,
            most_pixels=images.most_pixels,
        )
    settled(target.problems, target.skip_broken, writer.images + len(there), str(artifact.folder))
    there = set(there)
    return [one for one in wanted if one.path in there]


NETWORKS = {"timm": _with_timm, "vlbert": _with_vlbert}


def _build(
    entries: Callable[[RegionWriter], Iterator[importers.Entry]],
    target: Target,
    source: Path,
    options: dict[str, Any],
    features: str | Callable[[RegionWriter], str],
    signature: str,
) -> dict[str, Any]:
    options = {**options, "limit": target.limit, **({"skip_broken": target.skip_broken} if target.skip_broken else {})}
    if not target.dry_run:
        artifacts.settle(target.out)
    if not target.overwrite and (kept := _unchanged(target.out, options, signature)) is not None:
        return kept
    artifacts.refuse_inputs_in(target.out, source)
    artifacts.refuse_existing(target.out, target.overwrite, REGIONS.stage)
    said = {"source": str(source.resolve()), "options": options, "inputs": signature, "partial": target.limit is not None}
    if target.dry_run:
        return artifacts.new_manifest(REGIONS.stage, **said)
    # What an interrupted call has written is gone on with, by the same libraries.
    begun = artifacts.fingerprint([options, signature, package_versions()])
    with (
        artifacts.building(target.out, overwrite=target.overwrite, stage=REGIONS.stage, begun=begun) as folder,
        RegionWriter(folder, said) as writer,
    ):
        _write(entries(writer), writer, source, target)
        left = settled(target.problems, target.skip_broken, writer.images, str(source))
        manifest = writer.close(
            features=features if isinstance(features, str) else features(writer),
            **({} if left is None else {"left_out": asdict(left)}),
        )
    return manifest


def _write(entries: Iterator[importers.Entry], writer: RegionWriter, source: Path, target: Target) -> None:
    seen: dict[str, str] = {}
    problems, every = target.problems, target.problems.every or bool(target.skip_broken)
    for where, name, regions in entries:
        key = image_key(name)
        if regions is None and key not in writer:  # a faulty one
            continue
        # Not by comparing places: two entries of one file may have the same.
        if key in seen:
            problems.add(f"image {key} appears twice", where=where, hint=f"first at {seen[key]}; drop one", part=IMAGE)
            continue
        seen[key] = where
        if regions is not None:
            try:
                writer.add(key, checked(regions))
            except ValueError as error:
                problems.add(str(error), where=where, hint="fetch it again, or leave the image out", part=IMAGE)
        if target.progress:
            target.progress(writer.images)
        if writer.images == target.limit:
            break
        if len(problems.items) >= MOST_FAULTS and not every:
            message = f"has {MOST_FAULTS:,} faults; the rest was not read"
            problems.add(message, where=str(source), hint="is it the right file?")
            break
    if not problems and not writer.images:
        problems.add("holds no image", where=str(source), hint="is it the right file?")


def _unchanged(out: Path, options: dict[str, Any], signature: str) -> dict[str, Any] | None:
    try:
        manifest = artifacts.read_manifest(out, REGIONS.stage, make_it="")
    except InputError:
        return None
    # One in the layout of an earlier version cannot be read any more.
    if manifest.get("options") != options or manifest.get("inputs") != signature or manifest.get("layout") != LAYOUT:
        return None
    return {**RegionStore(out).manifest, "unchanged": True}
