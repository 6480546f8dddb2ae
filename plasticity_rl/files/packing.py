"""Files in one compressed file: the same bytes whenever it is made, and read without trusting who made it. Light.

Nothing is ever extracted by the names in it: :func:`unpacked` yields contents, and whoever writes them checks names.
Neither way has more than one of the files in memory at a time.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from plasticity_rl.errors import UserError

ENDING = ".tar.xz"
MOST_BYTES = 20_000_000_000
"""Of all files together, unpacked: a file of a megabyte can stand for more than any disk holds."""
MOST_BYTES_OF_A_FILE = 256_000_000
MOST_MEMORY = 256_000_000
"""Bytes that unpacking may need beside them; what :func:`packed` writes needs 65 MB."""
CHUNK_BYTES = 1 << 20


def packed(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return files, each with its name, as a ``.tar.xz``: in that order, without times, owners and modes of their own.

    One version of the library that compresses gives the same bytes for the same files.

    Raises:
        UserError: When they are more than :func:`unpacked` reads back.
    """
    result, total = io.BytesIO(), 0
    with (
        lzma.open(result, "wb", preset=9 | lzma.PRESET_EXTREME) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in files:
            total += len(content)
            _refuse_too_large(f"{name}: too much to keep", len(content), total)
            member = tarfile.TarInfo(name)  # mtime 0, owner 0 without a name
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return result.getvalue()


def unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files in a ``.tar.xz``, each with the name that is in it.

    Raises:
        UserError: When it cannot be read, is damaged, holds anything but files, or is too large unpacked. The end of
            it is read last: what was yielded before may be of a file that is damaged.
    """
    try:
        with path.open("rb") as file:
            stream = _Decompressed(path, file)
            yield from _members(path, stream)
            stream.read_to_end()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (lzma.LZMAError, EOFError, tarfile.TarError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no {ENDING} file ({error}): get it anew") from error


def _refuse_too_large(where: str, size: int, total: int) -> None:
    if size > MOST_BYTES_OF_A_FILE or total > MOST_BYTES:
        raise UserError(
            f"{where}: over {MOST_BYTES_OF_A_FILE:,} bytes in one file, or {MOST_BYTES:,} in all, are not packed or "
            "read"
        )


class _Decompressed(io.RawIOBase):
    """The content of an ``.xz`` file from its begin to its end, as :mod:`tarfile` reads it."""

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        super().__init__()
        self.path, self.file, self.total = path, file, 0
        self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return at most so many bytes; none at the end."""
        while not self.decompressor.eof:
            more = self.file.read(CHUNK_BYTES) if self.decompressor.needs_input else b""
            if not more and self.decompressor.needs_input:
                raise EOFError("its end is missing")
            if content := self.decompressor.decompress(more, max_length=size):
                self.total += len(content)
                _refuse_too_large(f"{self.path} unpacks to too much", 0, self.total)
                return content
        return b""

    def read_to_end(self) -> None:
        """Read what the archive does not need: the checksum is at the end, and nothing may follow."""
        while self.read():
            pass
        if self.decompressor.unused_data or self.file.read(1):
            raise EOFError("something follows its end")


def _members(path: Path, stream: _Decompressed) -> Iterator[tuple[str, bytes]]:
    found: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            _refuse_too_large(f"{path} holds {member.name!r}", member.size, 0)
            read = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if read is None or member.name in found:
                what = "twice" if member.name in found else "which is no plain file"
                raise UserError(f"{path} holds {member.name!r}, {what}: it was not made by this program")
            found.add(member.name)
            yield member.name, read.read()
