"""What a run that was interrupted has to share with one that was not."""

from __future__ import annotations

import json
from pathlib import Path


def curve(run: Path) -> list[dict]:
    """What does not depend on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "pairs_per_s"} for row in rows]


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()
