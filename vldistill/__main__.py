"""`python -m vldistill`: the same entry point as the `vldistill` command, for `torchrun` and `srun`."""

from vldistill.cli import main

main()
