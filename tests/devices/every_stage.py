"""The product's commands on the virtual device, one after the other in one process.

A program: `every_stage.py WORKSHOP` reads lines of `[name, words]` in JSON, runs each in the workshop and prints a line of JSON.
It finds its helpers below `tests` and `tests/hostile` by PYTHONPATH."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback

import torch
import virtual_device
from accelerate.state import AcceleratorState, PartialState

from vldistill import devices, runtime


def use(device: torch.device) -> None:
    """Has the product compute there: before anything has imported the functions that choose a device."""
    devices.compute_device = lambda: device
    make = runtime.make_accelerator

    def on_device(*words, **more):
        AcceleratorState._reset_state(True)
        accelerator = make(*words, **more)
        for state in (accelerator.state, PartialState()):
            state._shared_state["device"] = device
        return accelerator

    runtime.make_accelerator = on_device
    from vldistill.commands import bench

    bench._device = lambda gpu: device


def run(words: list[str]) -> dict:
    """How a command ended, and what it did on the device."""
    from vldistill.cli import main
    from vldistill.teachers.unimodal import _shared_clip as networks

    networks.cache_clear()  # what an earlier command has loaded and moved
    virtual_device.log.__init__()
    out, err, code, broken = io.StringIO(), io.StringIO(), 0, ""
    sys.argv = ["vldistill", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as leaving:
            code = leaving.code or 0
        except Exception:
            code, broken = 99, traceback.format_exc()
    log = virtual_device.log
    return {
        "code": code,
        "err": (err.getvalue() + broken)[-8000:],
        "last": out.getvalue().splitlines()[-1:],
        "launches": log.launches,
        "waits": sum(log.waits.values()),
        "copies": sum(log.copies.values()),
    }


def main() -> None:
    virtual_device.install()
    torch.set_num_threads(1)
    use(torch.device(virtual_device.NAME, 0))
    os.chdir(sys.argv[1])
    os.environ["VLDISTILL_DEBUG"] = "1"  # a refusal keeps its traceback
    for line in sys.stdin:
        name, words = json.loads(line)
        print(json.dumps({"name": name, **run(words)}), flush=True)


if __name__ == "__main__":
    main()
