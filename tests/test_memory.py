"""Memory that runs out, on a GPU or on the machine: one line with the peak and what to lower, exit code 1, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from advl_worlds import advl_recipe, write_teachers
from hints import faults_of, options_of

from vldistill.devices import LOWER, out_of_memory
from vldistill.errors import InputError

PICTURE = "artifacts/raw/toy/vqa/train2014/COCO_train2014_000001000000.jpg"
RUN = "runs/quickstart_dide"
ON_GPU = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free. Of "
    "the allocated memory 70.00 GiB is allocated by PyTorch"
)
# Every command that computes, as it is typed; `bench` fills the machine itself, below.
COMMANDS = {
    "pretrain": "pretrain -r quickstart_fusion --name full",
    "finetune": "finetune -r quickstart_teacher --name full",
    "distill": "distill -r quickstart_dide --name full",
    "cache": "cache -r {out}/advl.yaml cache.path={out}/cache",
    "evaluate": f"evaluate {RUN} --out {{out}}/eval",
    "predict": f"predict {RUN} --image {PICTURE} --image {PICTURE} --text hi",
    "index build": f"index build {RUN} artifacts/data/toy-nlvr2 --out {{out}}/index",
}
OF_AN_ALLOCATOR = [
    torch.OutOfMemoryError(ON_GPU),
    MemoryError(),
    MemoryError("Unable to allocate 7 GiB for an array"),
    OSError(12, "no memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
]


def test_every_command_that_can_take_less_says_so():
    by_recipe = {"pretrain", "finetune", "distill", "cache"}
    with_levers = {name for name, options in options_of().items() if "--batch" in options} | by_recipe
    assert with_levers == set(LOWER) == {*COMMANDS, "bench"}
    for name, hint in LOWER.items():
        assert faults_of(hint, name.split()) == []


@pytest.mark.parametrize("error", OF_AN_ALLOCATOR, ids=lambda error: f"{type(error).__name__} {str(error)[:30]}")
def test_an_allocators_error_is_known_also_where_a_reader_calls_the_file_broken(error):
    assert out_of_memory(error) is error
    try:
        try:
            raise error
        except Exception:
            raise InputError("is broken") from None
    except InputError as hiding:
        assert out_of_memory(hiding) is error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 cannot be multiplied"), OSError(28, "no room"), ValueError("x")])
def test_other_errors_stay_as_they_are(error):
    assert out_of_memory(error) is None


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_gpu_is_one_line(world, command, tmp_path, monkeypatch, name):
    """The allocator refuses at the first matrix product, wherever the command computes it."""
    write_teachers(tmp_path / "teachers")
    (tmp_path / "advl.yaml").write_text(advl_recipe("objective: {kind: advl}\ntrain: {steps: 2}", teachers=tmp_path / "teachers"))

    def full(*_):
        raise torch.OutOfMemoryError(ON_GPU)

    words = COMMANDS[name].format(out=tmp_path).split()
    runs = ["--runs", str(tmp_path / "runs")] if name in ("pretrain", "finetune", "distill") else []
    monkeypatch.setattr(torch.nn.Linear, "forward", full)
    result = command(*words, *runs)
    (line,) = result.err.splitlines()
    assert result.code == 1 and line.startswith("vldistill: out of memory on GPU 0") and "2.5 GiB more were asked for" in line
    assert line.endswith(f"({LOWER[name]})")


def test_a_full_machine_is_one_line(command, tmp_path, monkeypatch):
    """As torch's own allocator says it: more than any machine has."""
    monkeypatch.chdir(tmp_path)
    result = command("bench", "--batch", "1000000000", "--rounds", "1")
    (line,) = result.err.splitlines()
    assert result.code == 1 and line.startswith("vldistill: out of memory on this machine: ") and " at the peak, " in line
    assert "GiB more were asked for" in line and "lower --batch" in line


@pytest.mark.slow
def test_a_training_on_a_full_machine_is_one_line(world, tmp_path):
    """Within a limit of the operating system, in a process of its own."""
    within = f"""
import resource, re, torch
from vldistill.cli import main
import vldistill.training.run
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20), resource.RLIM_INFINITY))
main(["finetune", "-r", "quickstart_teacher", "--runs", {str(tmp_path / "runs")!r}, "train.steps=2", "train.batch.pairs=64",
      "student.init=null", "student.sizes.width=512", "student.sizes.heads=8", "student.sizes.feedforward=4096"])
"""
    done = subprocess.run([sys.executable, "-c", within], capture_output=True, text=True, check=False)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert line.startswith("vldistill: out of memory on this machine: ") and "train.batch.pairs" in line
