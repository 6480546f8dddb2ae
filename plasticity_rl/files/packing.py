"""Files in one compressed file: the same bytes whenever it is made, and read without trusting who made it. Light.

Nothing is ever extracted by the names in it: :func:`unpacked` returns contents, and whoever writes them checks names.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path

from plasticity_rl.errors import UserError

ENDING = ".tar.xz"
MOST_BYTES = 256_000_000
"""That are unpacked of one file; a file of a megabyte can stand for more than any memory holds."""
MOST_MEMORY = 256_000_000
"""Bytes that unpacking may need beside them; what :func:`packed` writes needs 65 MB."""


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return files by name as a ``.tar.xz``: in the order of their names, without times, owners and modes of their own.

    One version of the library that compresses gives the same bytes for the same files.
    """
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)  # mtime 0, owner 0 without a name
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return lzma.compress(whole.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def unpacked(path: Path) -> dict[str, bytes]:
    """Return the files in a ``.tar.xz`` by name, as the file says them.

    Raises:
        UserError: When it cannot be read, is damaged, holds anything but files, or is too large unpacked.
    """
    try:
        return _members(path, _decompressed(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (lzma.LZMAError, EOFError, tarfile.TarError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no {ENDING} file ({error}): get it anew") from error


def _decompressed(path: Path) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
    content = decompressor.decompress(path.read_bytes(), max_length=MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} unpacks to more than {MOST_BYTES:,} bytes: it was not made by this program")
    if not decompressor.eof or decompressor.unused_data:  # the checksum is at the end
        raise EOFError("its end is missing, or something follows it")
    return content


def _members(path: Path, content: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            read = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if read is None or member.name in found:
                what = "twice" if member.name in found else "which is no plain file"
                raise UserError(f"{path} holds {member.name!r}, {what}: it was not made by this program")
            found[member.name] = read.read()
    return found
