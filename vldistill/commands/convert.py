"""`vldistill convert`."""

from __future__ import annotations

from pathlib import Path

from vldistill.commands.output import last_line
from vldistill.errors import InputError
from vldistill.places import check_writable
from vldistill.terminal import say

KINDS = ("vilt", "meter", "oscar", "uniter", "vlbert", "clip_vil", "slip", "declip")

_OFFICIAL_FUSION = ("vilt", "meter", "oscar")
_OWN_VOCABULARY = ("slip", "declip")
"""Those that read by CLIP's vocabulary, which open_clip brings."""


def convert_command(kind: str, source: Path, out: Path, *, vocab: Path | None, answers: Path | None, overwrite: bool) -> None:
    """Converts and says what came out. Raises InputError for a kind that is not known, or a vocabulary missing or in vain."""
    if kind not in KINDS:
        raise InputError(f"convert {kind}: no such kind", hint=f"one of {', '.join(KINDS)}")
    if (vocab is None) != (kind in _OWN_VOCABULARY):
        if vocab is not None:
            raise InputError(f"--vocab means nothing for {kind}", hint="leave it out")
        raise InputError("--vocab is missing", hint=(
            "give the folder of its RoBERTa, with vocab.json and merges.txt" if kind == "meter"
            else "give the vocab.txt of its BERT: cased for uniter, uncased for the others"))
    if answers is not None and kind not in _OFFICIAL_FUSION:
        raise InputError(f"--answers means nothing for {kind}", hint="leave it out")
    check_writable(out)
    if kind == "slip":
        from vldistill.models import slip

        sizes = slip.convert(source, out, overwrite=overwrite)
        told = {"vision": sizes["architecture"], "text": f"{sizes['layers']} x {sizes['width']}"}
    elif kind == "declip":
        from vldistill.students import official_declip

        config = official_declip.convert(source, out, overwrite=overwrite).encoder
        told = {"vision": f"{config.vision_layers} x {config.vision_width}", "shared": config.hidden_size,
                "text": f"{config.num_hidden_layers} x {config.text_width}"}
    elif kind in _OFFICIAL_FUSION:
        from vldistill.students import official_meter, official_oscar, official_vilt

        converter = {"vilt": official_vilt, "meter": official_meter, "oscar": official_oscar}[kind]
        spec = converter.convert(source, vocab, out, answers=answers, overwrite=overwrite)
        told = {"layers": spec.encoder.num_hidden_layers, "width": spec.encoder.hidden_size, "task": spec.task or "none",
                "classes": len(spec.labels)}
    else:
        from vldistill.students.official import convert

        spec = convert(kind, source, vocab, out, overwrite=overwrite)
        told = {"layers": spec.encoder.num_hidden_layers, "width": spec.encoder.hidden_size}
    say(f"wrote {out}: {', '.join(f'{name} {value}' for name, value in told.items())}")
    last_line({"model": str(out), "kind": kind, **told})
