"""ADVL under two processes: what it learns beside the student, T, E, F and the maps, gets the same gradient in both phases as in
one process that sees all pairs."""

from __future__ import annotations

import advl_gradients
import forked
import torch
from advl_gradients import first_batch, gradients, load
from advl_worlds import advl_recipe, write_teachers
from safetensors.torch import load_file

from vldistill.runtime import choose_precision, make_accelerator
from vldistill.training.stages import make_phases

REST = """
objective: {kind: advl, answer_loss: softmax, itm_fraction: 0.5}
train: {steps: 4, batch: {pairs: 4}}
cache: {path: HERE/cache}
"""
MAPS = ["vision", "text", "words"]


def test_all_that_advl_learns_gets_its_gradient_from_both_processes(world, tmp_path):
    write_teachers(tmp_path)
    rest = REST.replace("HERE", str(tmp_path))
    (tmp_path / "advl.yaml").write_text(advl_recipe(rest, data=world / "artifacts/data/toy-vqa", teachers=tmp_path))
    recipe, parts = load(tmp_path / "advl.yaml")  # and with it the cache
    ends = forked.ends_of(forked.call_pair(lambda: advl_gradients.main(tmp_path / "advl.yaml", tmp_path), tmp_path / "log"))
    assert [code for code, _ in ends] == [0, 0], ends
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-6, atol=0, msg=name)

    matching, task = make_phases(recipe, parts, 2)
    accelerator = make_accelerator(choose_precision("fp32"), 1, [], tmp_path)
    whole = gradients(task, parts, accelerator, first_batch(task, recipe, rank=0, world=1, times=2), seed=0)
    # Each process draws its mismatches among its own pairs, so that here the halves are averaged.
    batches = [first_batch(matching, recipe, rank=rank, world=2) for rank in (0, 1)]
    halves = [gradients(matching, parts, accelerator, batch, seed=rank) for rank, batch in enumerate(batches)]
    alone = whole | {name: (value + halves[1][name]) / 2 for name, value in halves[0].items()}
    learned = {f"{place}scalars.raw" for place in ("task.", "matching.advl.")}
    learned |= {
        f"{place}distances.maps.{name}.{part}"
        for place in ("task.", "matching.advl.")
        for name in MAPS
        for part in ("weight", "bias")
    }
    assert learned <= first.keys() == alone.keys()
    for name in learned:
        assert (first[name] != 0).all() if name.endswith("raw") else first[name].abs().sum() > 0, name
        torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
