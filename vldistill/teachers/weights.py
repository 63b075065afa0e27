"""What identifies a frozen teacher's weights (see `models.loading`): of published ones the hash of their file, so that features
stored on one machine are found again on another."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn

from vldistill.artifacts import MANIFEST, file_digest, fingerprint, known_digest
from vldistill.errors import InputError
from vldistill.finite import check_weights
from vldistill.models.base.weights import FILES, digest_of_weights, weights_file

UNKNOWN = "?"
"""Stands for the hash of published weights that are not on this machine."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_BLOB = re.compile(r"[0-9a-f]{64}")


def weights_digest(source: Path | None, hub_name: str | None) -> str:
    """32 hex digits of sha256 of the weights' file: of `source`, a file or a folder with one; else of the library's own copy of
    the published model `hub_name`, UNKNOWN where that has not been fetched. Raises InputError where a folder has no weights."""
    if source is not None:
        # A folder of several files has no one file; a library's own layout is told by its file.
        several = source.is_dir() and not any((source / name).is_file() for name in FILES)
        digest = digest_of_weights(source, known_digest) if several else None
        return (digest or known_digest(weights_file(source)))[:32]
    for name in FILES if hub_name else ():
        try:
            copy = try_to_load_from_cache(hub_name, name)
        except HFValidationError:
            raise InputError(
                "no such folder, and no name of a published model", where=hub_name, hint="give a folder, or owner/name"
            ) from None
        if isinstance(copy, str):
            blob = Path(copy).resolve()
            # The hub names its files by this very hash.
            return (blob.name if _BLOB.fullmatch(blob.name) else known_digest(blob))[:32]
    return UNKNOWN


def tokenizer_digest(source: Path | None, hub_name: str | None) -> str:
    """32 hex digits of all files that a tokenizer is made of: of the folder `source`, else of the library's own copies of the
    published model `hub_name`, UNKNOWN where none has been fetched."""
    if source is not None:
        files = {name: source / name for name in TOKENIZER_FILES if (source / name).is_file()}
    else:
        copies = {name: try_to_load_from_cache(hub_name, name) for name in TOKENIZER_FILES}
        files = {name: Path(copy) for name, copy in copies.items() if isinstance(copy, str)}
    return fingerprint({name: file_digest(path) for name, path in files.items()})[:32] if files else UNKNOWN


def config_digest(folder: Path) -> str:
    """8 hex digits of a model folder's configuration: what tells apart models of one folder name and random weights."""
    for name in ("config.json", "open_clip_config.json"):
        if (folder / name).is_file():
            return file_digest(folder / name)[:8]
    raise InputError("holds no config.json", where=str(folder), hint="give a model's folder")


def folder_title(folder: Path) -> str:
    """What a teacher's folder is called, with a digest of its configuration; the model of a run by its recipe's name."""
    own = folder.resolve()
    run = own.name == "model" and (own.parent / MANIFEST).exists()
    return f"{own.parents[2].name if run else own.name}@{config_digest(folder)}"


def frozen(network: nn.Module, name: str) -> nn.Module:
    """In evaluation mode and without gradients, whatever happens around it. Raises InputError where a weight is not finite. name:
    of the teacher, for that."""
    check_weights(network.state_dict(), name)
    return network.eval().requires_grad_(False)
