"""Archives for tests: plain ones, and hostile ones that no honest tool would write."""

import io
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from vldistill.data.unpack import unpack
from vldistill.errors import InputError

MODES = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
NOISE = random.Random(0).randbytes(300_000)
ZEROS = bytes(2**20)


def refused(sources: list[Path], reason: str, lines: int = 1) -> str:
    """The message of a refusal; beside the sources nothing is there before or after."""
    place = sources[0].parent
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=reason) as caught:
        unpack(sources, place / "new" / "target")
    assert sorted(place.rglob("*")) == before
    message = str(caught.value)
    assert message.isprintable() if lines == 1 else message.count("\n") == lines - 1
    return message


def contents(folder) -> dict[str, bytes]:
    """The files below a folder that was unpacked, without its manifest."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert files.pop("manifest.json")
    return files


def write_tar(path: Path, *members, mode="w", **options) -> Path:
    """members: (name, content) or a TarInfo, or both: (TarInfo, content)."""
    with tarfile.open(path, mode, **options) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            info = info if isinstance(info, tarfile.TarInfo) else tarfile.TarInfo(info)
            info.size = len(content) if info.type == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind=tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header(name=b"x", size=b"00000000000\0", kind=b"0", mode=b"0000644\0") -> bytes:
    """One header block of a tar, its checksum right."""
    block = bytearray(512)
    block[:100], block[100:108], block[124:136], block[156:157] = name.ljust(100, b"\0"), mode, size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def write_zip(path: Path, *members, method=zipfile.ZIP_DEFLATED) -> Path:
    """members: (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for info, content in members:
            archive.writestr(info, content, compress_type=method)
    return path


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def patched(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    data = path.read_bytes()
    for old, new in changes:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def set_zip_field(path: Path, local: int | None, central: int, form: str, value: int) -> Path:
    """Sets a field of the first member's headers, by its place in each of the two."""
    data = bytearray(path.read_bytes())
    if local is not None:
        struct.pack_into(form, data, local, value)
    struct.pack_into(form, data, data.index(b"PK\1\2") + central, value)
    path.write_bytes(data)
    return path


def zip_bomb(path: Path, mib: int = 200, claims: int | None = None) -> Path:
    """A zip with that many MiB of zeros, which claims fewer bytes if told so."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("zeros", "w") as file:
        for _ in range(mib):
            file.write(ZEROS)
    return path if claims is None else set_zip_field(path, 22, 24, "<I", claims)


class Zeros(io.RawIOBase):
    """So many zeros, as a file."""

    def __init__(self, left: int):
        self.left = left

    def read(self, size=-1):
        size = self.left if size < 0 else min(size, self.left)
        self.left -= size
        return ZEROS[:size]


def tar_bomb(path: Path, mib: int = 200) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.addfile(entry("first", size=10), io.BytesIO(b"0123456789"))
        archive.addfile(entry("zeros", size=mib * 2**20), Zeros(mib * 2**20))
    return path
