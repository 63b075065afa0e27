"""A GPU that torch cannot use is told wherever something is computed, and one that it has no code for is refused."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import torch
from advl_worlds import advl_recipe, write_teachers

from vldistill import devices

PICTURE = "artifacts/raw/toy/vqa/train2014/COCO_train2014_000001000000.jpg"
RUN = "runs/quickstart_dide"
# Every command that would use a GPU, as it is typed.
COMPUTING = {
    "pretrain": "pretrain -r quickstart_fusion --runs {out}",
    "finetune": "finetune -r quickstart_teacher --runs {out}",
    "distill": "distill -r quickstart_dide --runs {out}",
    "cache": "cache -r {out}/advl.yaml cache.path={out}/cache",
    "evaluate": f"evaluate {RUN} --limit 4 --out {{out}}/eval",
    "index build": f"index build {RUN} {{out}}/few --out {{out}}/index",
    "predict": f"predict {RUN} --image {PICTURE} --image {PICTURE} --text hi",
}
OLD = {
    "get_device_capability": (5, 2),
    "get_arch_list": ["sm_75", "sm_80", "compute_90"],
    "get_device_name": "Old",
    "device_count": 1,
    "is_available": True,
}


def too_old() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver")


@pytest.fixture
def idle_gpu(tmp_path, monkeypatch):
    """The node of a GPU, with a driver that torch refuses."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    monkeypatch.setattr(devices, "NODES", tmp_path / "dev")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def old_card(monkeypatch):
    for name, value in OLD.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


@pytest.fixture
def typed(world, few, tmp_path):
    """A function: the words of one of `COMPUTING`."""

    def words(name: str) -> list[str]:
        if name == "cache":
            write_teachers(tmp_path / "teachers")
            recipe = advl_recipe("objective: {kind: advl, words: 0}\ntrain: {steps: 2}", teachers=tmp_path / "teachers")
            (tmp_path / "advl.yaml").write_text(recipe)
        if name == "index build":
            (tmp_path / "few").mkdir()
            (tmp_path / "few/a.jpg").write_bytes(Path(PICTURE).read_bytes())
        overrides = few if name in ("pretrain", "finetune", "distill") else ()
        return [*shlex.split(COMPUTING[name].format(out=tmp_path)), *overrides]

    return words


@pytest.mark.parametrize("name", COMPUTING)
def test_an_idle_gpu_is_told_by_every_command_that_computes(typed, well, idle_gpu, name):
    result = well(*typed(name))
    # A training says it at the head of its log.
    told = result.out if name in ("pretrain", "finetune", "distill") else result.err
    (line,) = (line for line in told.splitlines() if "WARNING" in line and "GPU" in line)
    assert "torch cannot use, so all is computed on the CPU: The NVIDIA driver on your system is too old" in line
    assert "bin/setup" in line and "CUDA_VISIBLE_DEVICES=" in line


@pytest.mark.parametrize("name", COMPUTING)
def test_a_card_without_code_is_refused(typed, command, old_card, name):
    result = command(*typed(name))
    assert result.code == 2 and "GPU 0, Old, has compute capability 5.2, this torch has code for sm_75, sm_80" in result.err


def test_the_list_is_of_all_modules_that_choose_a_device():
    """What asks torch for a GPU itself, and not `compute_device`, only describes or measures."""
    package = Path(devices.__file__).parent
    choosing = {path.stem for path in package.rglob("*.py") if "compute_device()" in path.read_text()} - {"devices"}
    assert choosing == {"captions", "opened", "caches", "prepare_regions", "index"}
    asking = [path.stem for path in package.rglob("*.py") if 'torch.device("cuda" if' in path.read_text()]
    assert asking == ["devices"]


def test_no_ordinary_test_sees_a_gpu(request):
    """So that the suite says the same on a machine that has one."""
    assert "gpu" in request.config.option.markexpr.replace("not gpu", "") or os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_doctor_and_bench_say_why(command, well, idle_gpu):
    (line,) = (line for line in well("doctor").out.splitlines() if " GPU " in line)
    assert line.startswith("missing") and "torch cannot use" in line
    refused = command("bench", "--gpu", "--dry-run")
    assert refused.code == 2 and "torch cannot use" in refused.err


def test_what_torch_says_of_a_gpu_that_it_does_not_find():
    """From torch itself, in a process that sees no GPU."""
    assert "NVIDIA" in devices._refusal() or "CUDA" in devices._refusal()


def test_a_gpu_that_is_hidden_or_another_jobs_is_not_told(idle_gpu, monkeypatch, tmp_path):
    assert devices.unused_gpu() is not None
    for hidden in ("", "-1", " "):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert devices.unused_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.unused_gpu() is not None

    def denied(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", denied)
    assert devices.unused_gpu() is None
    monkeypatch.undo()
    monkeypatch.setattr(devices, "NODES", tmp_path)
    assert devices.unused_gpu() is None


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 9), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["compute_80"], True),
        ((7, 0), ["compute_80"], False),
        ((12, 0), ["sm_120"], True),
        ((12, 1), ["sm_120f"], True),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120a"], False),
        ((12, 0), ["compute_100f"], False),
        ((12, 0), ["compute_90a"], False),
        ((10, 0), ["sm_90a", "sm_100"], True),
        ((5, 2), [], True),
    ],
)
def test_which_code_runs_on_a_card(capability, built, runs):
    """After NVIDIA's rules of compatibility: code within a major number, from its own minor on; PTX from its number on."""
    assert devices.runs_on(capability, built) is runs
