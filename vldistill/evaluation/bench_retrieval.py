"""What ranking all images of a set against all of its texts takes (DiDE, Table 4): the dual encoder measured whole, part by part,
the fusion encoder from a sample of the pairs that it would have to read.

Inputs are random, of real shapes; one batch recurs, since what it holds makes no difference to the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vldistill.data.batch import RANK, Batch
from vldistill.evaluation import flops
from vldistill.evaluation.bench import BenchRow, Setting, frozen, make_batch
from vldistill.evaluation.timing import seconds_of
from vldistill.metrics.retrieval import ranks_of_vectors
from vldistill.models.vilt.model import Vilt, ViltDual

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
    reading = pairs * flops.fusion_flops(tokens, setting.patches, config)
    of_images, of_texts = size.images * flops.image_flops(setting.patches, config), size.texts * flops.text_flops(tokens, config)
    scoring = 2 * pairs * config.hidden_size
    rows = {
        f"fusion, every pair, from {size.pairs}": (whole, reading),
        END_TO_END: (images + texts + ranked, of_images + of_texts + scoring),
        "dual, encoding images": (images, of_images),
        "dual, encoding texts": (texts, of_texts),
        "dual, scores and ranks": (ranked, scoring),
    }
    return [
        BenchRow(
            "retrieval",
            name,
            setting.batch,
            tokens,
            setting.precision,
            seconds,
            None,
            None,
            None,
            whole / seconds,
            reading / needed,
        )
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
