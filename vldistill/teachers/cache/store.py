"""Teachers' features as a growing store (see `vldistill.store`): caches, by the fields that their values depend on."""

from __future__ import annotations

from pathlib import Path

from vldistill.errors import InputError
from vldistill.store.listing import Listing, list_stores, nearest
from vldistill.store.manifest import Fields, has_begun, store_folder
from vldistill.store.reader import GrowingStore
from vldistill.store.table import Kind
from vldistill.store.verify import Report, verify_store
from vldistill.store.writer import StoreWriter

CACHE = Kind(
    "cache",
    make_it="vldistill cache",
    mend="delete this cache's folder and make it again: vldistill cache",
    apart="install those versions again, keep the new rows apart with cache.path=PLACE, or let them stand together with "
    "cache.versions=any",
)


class FeatureCache(GrowingStore):
    """A cache, complete or not."""

    kind = CACHE


class CacheWriter(StoreWriter):
    """Writes one."""

    kind = CACHE


def list_caches(root: Path) -> list[Listing]:
    """See `list_stores`."""
    return list_stores(root, CACHE)


def verify_cache(folder: Path) -> Report:
    """See `verify_store`."""
    return verify_store(folder, CACHE)


def open_cache(root: Path, name: str, fields: Fields) -> FeatureCache:
    """The cache of exactly these fields. Raises InputError where there is none, naming the nearest and where it differs."""
    folder = store_folder(root, name, fields)
    if has_begun(folder):
        return FeatureCache(folder)
    other = nearest(root, name, fields, CACHE)
    raise InputError(f"no such cache{f'; {other}' if other else ''}", where=str(folder), hint=f"make it with: {CACHE.make_it}")
