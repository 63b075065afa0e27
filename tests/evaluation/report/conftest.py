"""Runs written by hand, as training leaves them, without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def write_run(tmp_path):
    """A function that writes a run below tmp_path/runs and returns its folder."""

    def write(
        variant: str,
        seed: int = 0,
        *,
        recipe: str = "mine",
        settings: dict | None = None,
        task: str = "nlvr2",
        val: float = 0.5,
        scores: dict | None = None,
        curve: list | None = None,
        **manifest,
    ) -> Path:
        folder = tmp_path / "runs" / recipe / variant / f"seed{seed}"
        (folder / "model").mkdir(parents=True)
        (folder / "model/config.json").write_text(json.dumps({"vldistill": {"task": task}}))
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings or {"student": {"kind": "vilt"}}))
        told = {
            "schema": 1,
            "stage": "distill",
            "complete": True,
            "status": "complete",
            "recipe": recipe,
            "seed": seed,
            "recipe_hash": variant,
            "data": str(tmp_path / "data"),
            "parents": {"data": "d1"},
            "best": {"step": 2, "accuracy": val},
            "wall_s": 10.0 + seed,
        }
        (folder / "manifest.json").write_text(json.dumps(told | manifest))
        rows = curve if curve is not None else [{"step": step, "split": "train", "loss": 1.0 / step} for step in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for split, metrics in (scores or {}).items():
            (folder / "eval" / split).mkdir(parents=True)
            told = {"split": split, "data": "d1", "partial": False, **metrics}
            (folder / "eval" / split / "metrics.json").write_text(json.dumps(told))
        return folder

    return write
