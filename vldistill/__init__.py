"""Distil vision-language models from the command line; see `vldistill --help`."""
