"""Latency of Table 2's fusion encoders (DiDE), each at its own input size, beside the dual encoder with cached images.

As in the paper, ViLT is the reference of the ratios. VisualBERT, LXMERT and UNITER see 36 or 100 regions, whose detector is not
part of what is timed; Pixel-BERT's ResNet-50 is part of it, as ViLT's patches are. ViLT, VisualBERT and LXMERT are the library's,
as it ships them; UNITER and Pixel-BERT are ours, with fused attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from vldistill.data.batch import Batch, LetterboxBatch, RegionBatch
from vldistill.evaluation import flops
from vldistill.evaluation.bench import DTYPES, BenchRow, Setting, as_rows, frozen, library_vilt, make_batch
from vldistill.evaluation.timing import measure
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.region_student import RegionStudent
from vldistill.models.lxmert.model import Lxmert, LxmertConfig
from vldistill.models.pixelbert.model import PixelBert, PixelBertConfig, PixelNetwork
from vldistill.models.uniter.model import BOX, Uniter
from vldistill.models.vilt.model import ViltDual
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
    needed = {"ViLT": flops.fusion_flops(longest, setting.patches, config)}

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
        needed["dual, images cached"] = flops.text_flops(longest, config) + flops.fuse_flops(config)
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
            lambda regions: flops.stream_flops(longest, regions, visualbert),
        ),
        "LXMERT": (frozen(Lxmert(lxmert, **head), setting), lambda regions: flops.lxmert_flops(longest, regions, lxmert)),
        "UNITER": (
            frozen(Uniter(uniter, **head), setting),
            lambda regions: flops.stream_flops(longest, regions, uniter, boxes=BOX),
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
    needed = flops.stream_flops(setting.longest, cells, config)
    return model, needed + flops.network_flops(PixelNetwork(config).body, height, width)


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
