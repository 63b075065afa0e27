"""What `bench` measures beside speed: the fusion encoders of Table 2 (DiDE), retrieval (Table 4), and inference in fewer
bits.

Fusion encoders come each at its own input size, beside the dual encoder with cached images; as in the paper, ViLT is the
reference of the ratios. VisualBERT, LXMERT and UNITER see 36 or 100 regions, whose detector is not part of what is timed;
Pixel-BERT's ResNet-50 is part of it, as ViLT's patches are. ViLT, VisualBERT and LXMERT are the library's, as it ships them;
UNITER and Pixel-BERT are ours, with fused attention.

Retrieval ranks all images of a set against all of its texts: the dual encoder measured whole, part by part, the fusion
encoder from a sample of the pairs that it would have to read. Inputs are random, of real shapes; one batch recurs, since what
it holds makes no difference to the time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vldistill.data.batch import RANK, Batch, LetterboxBatch, RegionBatch
from vldistill.evaluation import cost
from vldistill.evaluation.bench import BenchRow, Setting, as_rows, frozen, library_vilt, make_batch
from vldistill.evaluation.cost import measure, seconds_of
from vldistill.evaluation.opened import DTYPES, Straying, quantised, straying
from vldistill.metrics.retrieval import ranks_of_vectors
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.region_student import RegionStudent
from vldistill.models.lxmert.model import Lxmert, LxmertConfig
from vldistill.models.pixelbert.model import PixelBert, PixelBertConfig, PixelNetwork
from vldistill.models.uniter.model import BOX, Uniter
from vldistill.models.vilt.model import Vilt, ViltDual
from vldistill.models.visualbert.model import VisualBert, VisualBertConfig

REGIONS = (36, 100)
NETWORK = "resnet50"
FEATURES = 2048
"""Of a region, as bottom-up attention has it."""
TITLE = "fusion models, detectors not timed"


def fusion_rows(setting: Setting) -> list[BenchRow]:
    """All at the sizes of `setting.config`, LXMERT with 9 text layers for every 12."""
    longest, config = setting.longest, setting.config
    batch = make_batch(setting, longest)
    text = replace(batch.text, segments=torch.zeros_like(batch.text.ids))
    vilt = library_vilt(setting)
    dual = frozen(ViltDual(config, images=1, classes=3), setting)
    calls: dict[str, Callable[[], object]] = {"ViLT": lambda: vilt(batch)}
    needed = {"ViLT": cost.fusion_flops(longest, setting.patches, config)}

    model, needed["Pixel-BERT-R50"] = _pixelbert(setting)
    pixels = replace(batch, text=text, images=[_canvases(setting)])
    calls["Pixel-BERT-R50"] = lambda: model(pixels)
    for name, (student, count) in _region_students(setting).items():
        for regions in REGIONS:
            given = replace(batch, text=text, images=[_regions(setting, regions)])
            calls[f"{name}, {regions} regions"] = _call(student, given)
            needed[f"{name}, {regions} regions"] = count(regions)
    with torch.inference_mode():
        cached = [dual.encode_image(batch.images[0])]
        calls["dual, images cached"] = lambda: dual.fuse(dual.encode_text(batch.text), cached)
        needed["dual, images cached"] = cost.text_flops(longest, config) + cost.fuse_flops(config)
        named = {f"{name}|{longest}": call for name, call in calls.items()}
        timings = measure(named, rounds=setting.rounds, device=setting.device)
    return as_rows(TITLE, setting, timings, needed["ViLT"], {f"{name}|{longest}": flop for name, flop in needed.items()})


def _call(student: RegionStudent, batch: Batch) -> Callable[[], object]:
    return lambda: student(batch)


def _sizes(setting: Setting) -> dict[str, int]:
    """What all have in common."""
    names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    return {name: getattr(setting.config, name) for name in names}


def _region_students(setting: Setting) -> dict[str, tuple[RegionStudent, Callable[[int], float]]]:
    """By name: a student, and the FLOP of a pass over so many regions."""
    depth, longest, sizes = setting.config.num_hidden_layers, setting.longest, _sizes(setting)
    visualbert = VisualBertConfig(**sizes, num_hidden_layers=depth, visual_embedding_dim=FEATURES)
    lxmert = LxmertConfig.of_depth(max(round(depth * 9 / 12), 1), **sizes, visual_feat_dim=FEATURES)
    uniter = RegionBertConfig(**sizes, num_hidden_layers=depth, region_size=FEATURES)
    head = {"images": 1, "classes": 3, "target": "label"}
    return {
        "VisualBERT": (
            frozen(VisualBert(visualbert, **head), setting),
            lambda regions: cost.stream_flops(longest, regions, visualbert),
        ),
        "LXMERT": (frozen(Lxmert(lxmert, **head), setting), lambda regions: cost.lxmert_flops(longest, regions, lxmert)),
        "UNITER": (
            frozen(Uniter(uniter, **head), setting),
            lambda regions: cost.stream_flops(longest, regions, uniter, boxes=BOX),
        ),
    }


def _pixelbert(setting: Setting) -> tuple[PixelBert, float]:
    """The student, and the FLOP of a pass."""
    height, width = _pixels(setting)
    config = PixelBertConfig(
        **_sizes(setting),
        num_hidden_layers=setting.config.num_hidden_layers,
        network=NETWORK,
        region_size=FEATURES,
        long_side=width,
    )
    model = frozen(PixelBert(config, images=1, classes=3, target="label"), setting)
    with torch.inference_mode():
        cells = model.network(_canvases(setting).pixels[:1]).shape[1]
    needed = cost.stream_flops(setting.longest, cells, config)
    return model, needed + cost.network_flops(PixelNetwork(config).body, height, width)


def _pixels(setting: Setting) -> tuple[int, int]:
    """Height and width of the image that ViLT sees."""
    rows, columns = setting.grid
    return rows * setting.config.patch_size, columns * setting.config.patch_size


def _canvases(setting: Setting) -> LetterboxBatch:
    pixels = torch.randint(
        0, 256, (setting.batch, 3, *_pixels(setting)), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    rows = torch.arange(setting.batch, device=setting.device)
    return LetterboxBatch(pixels.to(setting.device), [False] * setting.batch, rows)


def _regions(setting: Setting, count: int) -> RegionBatch:
    draw, move = torch.Generator().manual_seed(count), {"device": setting.device, "dtype": DTYPES[setting.precision]}
    features, boxes = (torch.rand(setting.batch, count, size, generator=draw).to(**move) for size in (FEATURES, 4))
    return RegionBatch(features, boxes, torch.ones(setting.batch, count, dtype=torch.bool, device=setting.device), features[:, 0])


ANSWERING, LOOKING = "text tower and head", "image tower"


class _Lowered:
    """A dual encoder in one precision, and its inputs. cached: fp32 image vectors."""

    def __init__(self, model: ViltDual, precision: str, batch: Batch):
        dtype = DTYPES.get(precision, torch.float32)
        self.model = quantised(model) if precision == "int8" else copy.deepcopy(model).to(dtype)
        self.text = batch.text
        self.images = [replace(image, patches=image.patches.to(dtype)) for image in batch.images]
        self.cached: list[Tensor] = []

    def look(self) -> Tensor:
        """[B, D] of the first image of each record."""
        return self.model.encode_image(self.images[0], 0)

    def answer(self) -> Tensor:
        return self.model.fuse(self.model.encode_text(self.text), self.cached)

    def encode(self) -> None:
        self.cached = [self.model.encode_image(image, place) for place, image in enumerate(self.images)]


def precision_rows(
    setting: Setting, precisions: Sequence[str], dual: ViltDual | None = None, *, images: int = 1
) -> list[BenchRow]:
    """Both parts of the dual encoder in each precision, fp32 first; the ratio is to fp32 of the same part. A note says
    how far its vectors and answers stray on the batch. dual: a trained one
    for so many images a record, else random weights."""
    model = (dual or ViltDual(setting.config, images=images, classes=3)).to(setting.device, torch.float32).eval()
    batch = make_batch(replace(setting, precision="fp32"), setting.longest, images=images)
    chosen = list(dict.fromkeys(("fp32", *precisions)))
    rows = []
    with torch.inference_mode():
        lowered = {name: _Lowered(model, name, batch) for name in chosen}
        for part in lowered.values():
            part.encode()
        strayed = {name: _strayed(lowered["fp32"], part) for name, part in lowered.items()}
        for title, call in ((ANSWERING, _Lowered.answer), (LOOKING, _Lowered.look)):
            calls = {f"{name}|{setting.longest}": lambda part=part, call=call: call(part) for name, part in lowered.items()}
            measured = as_rows("precision", setting, measure(calls, rounds=setting.rounds, device=setting.device), None, {})
            rows += [_named(row, title, strayed[row.variant][title]) for row in measured]
    return rows


def _strayed(exact: _Lowered, other: _Lowered) -> dict[str, Straying]:
    """Of both parts; the image tower has no answers of its own."""
    texts = (exact.model.encode_text(exact.text), other.model.encode_text(other.text))
    images = (exact.cached[0], other.cached[0])
    return {ANSWERING: straying(texts, (exact.answer(), other.answer())), LOOKING: straying(images, images)}


def _named(row: BenchRow, title: str, strayed: Straying) -> BenchRow:
    note = f"least cosine to fp32 {strayed.cosine:.5f}"
    note += f", same answer for {100 * strayed.agreement:.1f} %" if title == ANSWERING else ""
    return replace(row, variant=f"{title}, {row.variant}", precision=row.variant, note=note if row.variant != "fp32" else "")


PAPER_RATIO = 2509.2
"""40,398 s of ViLT over 16.1 s of DiDE, both ways over Flickr30K's test set (DiDE, Table 4)."""
END_TO_END = "dual, end to end"


@dataclass(frozen=True)
class RetrievalSize:
    """images, texts: of the set, Flickr30K's test set by default. pairs: that the fusion encoder is measured on."""

    images: int = 1000
    texts: int = 5000
    pairs: int = 64


def retrieval_rows(setting: Setting, size: RetrievalSize = RetrievalSize(), dual: ViltDual | None = None) -> list[BenchRow]:
    """The fusion encoder's row first, extrapolated; then the dual encoder's whole and its parts. dual: a trained one, else random
    weights. Encoding is measured once, after a batch to warm up; ranking takes the least of the setting's rounds."""
    config, tokens, device = setting.config, setting.longest, setting.device
    fusion = frozen(Vilt(config, images=1, classes=0, pretraining=(RANK,)), setting)
    dual = frozen(dual or ViltDual(config, images=1, classes=0), setting)
    batch = make_batch(setting, tokens)

    def read(part: Batch) -> Tensor:
        return fusion(part).logits

    with torch.inference_mode():
        before = size.pairs - size.pairs // 2
        sample = _timed(read, batch, before, device)[0]
        images, pictured = _timed(lambda part: dual.encode_image(part.images[0]), batch, size.images, device)
        texts, written = _timed(lambda part: dual.encode_text(part.text), batch, size.texts, device)
        # Half of the sample comes after, so that a machine that grows busier or idler is the same for both.
        sample += _timed(read, batch, size.pairs - before, device)[0] if size.pairs > before else 0.0
        owner = torch.arange(size.texts, device=device) % size.images
        ranked = min(seconds_of(lambda: _rank(written, pictured, owner), device) for _ in range(1 + setting.rounds))
    pairs = size.images * size.texts
    whole = sample / size.pairs * pairs
    reading = pairs * cost.fusion_flops(tokens, setting.patches, config)
    of_images, of_texts = size.images * cost.image_flops(setting.patches, config), size.texts * cost.text_flops(tokens, config)
    scoring = 2 * pairs * config.hidden_size
    rows = {
        f"fusion, every pair, from {size.pairs}": (whole, reading),
        END_TO_END: (images + texts + ranked, of_images + of_texts + scoring),
        "dual, encoding images": (images, of_images),
        "dual, encoding texts": (texts, of_texts),
        "dual, scores and ranks": (ranked, scoring),
    }
    once = (None, None, None)
    return [
        BenchRow("retrieval", name, setting.batch, tokens, setting.precision, seconds, *once, whole / seconds, reading / needed)
        for name, (seconds, needed) in rows.items()
    ]


def _timed(call: Callable[[Batch], Tensor], batch: Batch, count: int, device: torch.device) -> tuple[float, Tensor]:
    """Seconds of `count` rows, batch by batch, after a batch to warm up, and what came out."""
    sizes = [min(len(batch), count - start) for start in range(0, count, len(batch))]
    parts = {size: _first(batch, size) for size in set(sizes)}
    call(parts[sizes[0]])
    outputs: list[Tensor] = []
    seconds = seconds_of(lambda: outputs.extend(call(parts[size]) for size in sizes), device)
    return seconds, torch.cat(outputs)


def _first(batch: Batch, count: int) -> Batch:
    rows = torch.arange(count, device=batch.text.ids.device)
    return replace(
        batch, ids=batch.ids[:count], text=batch.text[rows], images=[image[rows] for image in batch.images], target=None
    )


def _rank(texts: Tensor, images: Tensor, owner: Tensor) -> object:
    """As `evaluate` ranks: by the cosine, in fp32."""
    return ranks_of_vectors(*(torch.nn.functional.normalize(side.float(), dim=-1) for side in (texts, images)), owner)
