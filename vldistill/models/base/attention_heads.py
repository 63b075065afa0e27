"""How many heads of attention the Transformers of an official checkpoint have. Weights do not tell: 384 numbers may be 6 heads of
64 or, as in MiniLM and SLIP's small model, 12 of 32. So they are those of the published models, or a user says them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vldistill.errors import InputError

HEAD_WIDTH = 64
"""Of most published models."""
BERT, CLIP_TEXT, CLIP_IMAGE, SLIP_IMAGE = "bert", "clip text", "clip image", "slip image"
HEADS_OF_WIDTH: dict[str, dict[int, int]] = {
    BERT: {768: 12, 1024: 16},
    CLIP_TEXT: {512: 8, 640: 10, 768: 12, 1024: 16},
    CLIP_IMAGE: {768: 12, 1024: 16},
    SLIP_IMAGE: {384: 12, 768: 12, 1024: 16},
}
"""By kind and width. BERT: base and large (Devlin et al., 2019, section 3), which RoBERTa, ViLT, METER's co-attention and all
students over regions follow. CLIP: tables 19 and 20 of Radford et al. (2021), which DeCLIP and SLIP's text tower follow. SLIP's
images: ViT-S, B and L of its code (Mu et al., 2021), of which the small one has MoCo v3's heads."""


class Stack(NamedTuple):
    """A Transformer of a checkpoint. kind: a key of HEADS_OF_WIDTH."""

    kind: str
    width: int


def heads_of(stacks: dict[str, Stack], given: Sequence[int] | None, source: Path) -> dict[str, int]:
    """Heads of each Transformer, by its name. given: one number for all of them, or one for each in their order; None: the
    published ones. Raises InputError where they are not given and nothing tells them, are not as many, or do not divide a
    width."""
    names = ", ".join(stacks)
    if given is not None and len(given) not in (1, len(stacks)):
        raise InputError(
            f"has {len(stacks)} Transformer(s), --heads {len(given)} numbers",
            where=str(source),
            hint=f"give one number, or one for each of: {names}",
        )
    counts = dict(zip(stacks, [*given] * len(stacks), strict=False)) if given is not None else {}
    if given is None:
        for name, stack in stacks.items():
            if (known := HEADS_OF_WIDTH[stack.kind].get(stack.width)) is not None:
                counts[name] = known
        if unknown := [name for name in stacks if name not in counts]:
            raise _not_told(stacks, unknown, source)
    for name, heads in counts.items():
        if stacks[name].width % heads:
            raise InputError(
                f"{_of(name, stacks)}is {stacks[name].width} wide, which is not a multiple of {heads} heads",
                where=str(source),
                hint="mend --heads",
            )
    return counts


def _not_told(stacks: dict[str, Stack], unknown: list[str], source: Path) -> InputError:
    usual = [HEADS_OF_WIDTH[kind].get(width) or max(width // HEAD_WIDTH, 1) for kind, width in stacks.values()]
    if len(stacks) == 1:
        [(_, width)] = stacks.values()
        message = f"is {width} wide, and does not say how many heads of attention it has"
        hint = f"say it with --heads N, such as {usual[0]} of {width // usual[0]} each"
    else:
        widths = ", ".join(f"{name} is {stacks[name].width} wide" for name in unknown)
        message = f"does not say how many heads of attention its Transformers have: {widths}"
        hint = f"say it with --heads {','.join('N' * len(stacks))} ({', '.join(stacks)}), such as {','.join(map(str, usual))}"
    return InputError(message, where=str(source), hint=hint)


def _of(name: str, stacks: dict[str, Stack]) -> str:
    """The start of a message; a checkpoint with one Transformer is meant itself."""
    return f"its {name} Transformer " if len(stacks) > 1 else ""
