"""The content of a file, decompressed where its first bytes are those of gzip, Zstandard or xz."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from halo_lightning.errors import DataError

MAX_LINE_BYTES = 8 * 2**20
"""A longer line is taken for a file that is not text at all: memory stays bounded."""

MOST_BLANK = 2**20
"""More white space, in blank lines one after the other, is taken for a file that is not text: time stays bounded."""

EXPECTED = "expected one JSON object on each line (JSON Lines)"

COMPRESSION = {".gz": "gzip", ".zst": "Zstandard", ".xz": "xz"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"\xfd7zXZ\x00": "xz"}
_PACKED = {b"PK\x03\x04": "a zip archive", b"BZh": "a bzip2 file"} | {
    magic: f"a {name} file inside of another" for magic, name in _MAGIC.items()
}
_TAR, _TAR_AT = b"ustar", 257


class Content:
    """Reads a file, and says at which line it is cut off or damaged.

    Args:
        path: The file.
        name: The file as messages call it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.lines = 0

    def __enter__(self) -> Content:
        try:
            self._file = self.path.open("rb")
            start = self._file.read(32)
            self._file.seek(0)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", file=self.name) from error
        self.compression = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
        expected = COMPRESSION.get(self.path.suffix.lower())
        if expected and start and self.compression is None:
            raise DataError(f"the name ends in {self.path.suffix}, and the content is not {expected}", file=self.name)
        if start.startswith(b"version https://git-lfs"):
            raise DataError(
                "found a pointer of Git LFS, expected the file itself: get it with git lfs pull", file=self.name
            )
        self._stream = self._call(lambda: io.BufferedReader(cast(Any, self._decompressed())))
        self._refuse_packed()
        return self

    def _refuse_packed(self) -> None:
        """Refuses content that is itself a file with files in it, or compressed once more."""
        start = self._call(lambda: self._stream.peek(_TAR_AT + len(_TAR)))
        what = next((what for magic, what in _PACKED.items() if start.startswith(magic)), None)
        if start[_TAR_AT:].startswith(_TAR):
            what = "a tar archive"
        if what is not None:
            raise DataError(
                f"found {what}, expected a file that is not compressed, or once by gzip, zst or xz: unpack it first",
                file=self.name,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _decompressed(self) -> BinaryIO:
        if self.compression == "gzip":
            return cast(BinaryIO, gzip.GzipFile(fileobj=self._file))
        if self.compression == "xz":
            return cast(BinaryIO, lzma.LZMAFile(self._file))
        if self.compression == "Zstandard":
            import pyarrow as pa

            return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(self._file, "r"), "zstd"))
        return self._file

    def starts_with(self, *magics: bytes) -> bool:
        """Whether the content begins with one of these bytes, without reading on."""
        return self._call(lambda: self._stream.peek(8)).startswith(magics)

    def first(self) -> bytes:
        """The first byte that is not white space, without reading on."""
        text = self._call(lambda: self._stream.peek(8192)).removeprefix(b"\xef\xbb\xbf").lstrip()
        return text[:1]

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end."""
        raw = self._call(lambda: self._stream.read(size))
        self.lines += raw.count(b"\n")
        return raw

    def numbered_lines(self, expected: str = EXPECTED) -> Iterator[tuple[int, bytes]]:
        """The lines, each with its number."""
        blank = 0
        while raw := self._call(lambda: self._stream.readline(MAX_LINE_BYTES + 1)):
            self.lines += 1
            if len(raw) > MAX_LINE_BYTES:
                raise DataError(
                    f"found a line of more than {MAX_LINE_BYTES // 2**20} MiB, {expected}",
                    file=self.name,
                    line=self.lines,
                )
            blank = blank + len(raw) if raw.isspace() else 0
            if blank:
                self.check_blank(blank)
            yield self.lines, raw

    def check_blank(self, size: int) -> None:
        """Refuses a file where so many characters of white space stand between two values.

        Raises:
            DataError: They are too many: a compressed file of some thousand bytes may hold billions of them.
        """
        if size > MOST_BLANK:
            raise DataError(
                f"found more than {MOST_BLANK:,} characters of white space one after the other, expected data",
                file=self.name,
                line=self.lines,
            )

    def _call(self, read: Any) -> Any:
        line = self.lines + 1
        try:
            return read()
        except EOFError as error:
            raise self._cut_off() from error
        except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"the {self.compression} file is damaged: {error}", file=self.name, line=line) from error
        except OSError as error:
            if self.compression == "Zstandard" and error.errno is None:
                if "Truncated" in str(error):
                    raise self._cut_off() from error
                raise DataError(f"the Zstandard file is damaged: {error}", file=self.name, line=line) from error
            raise DataError(f"cannot be read: {error.strerror or error}", file=self.name) from error

    def _cut_off(self) -> DataError:
        return DataError(
            f"the {self.compression} file ends before its content does (after {self.lines} whole lines): it was"
            " probably cut off while it was copied or downloaded, get it again",
            file=self.name,
            line=self.lines + 1,
        )


def decode(raw: bytes, name: str, number: int) -> str:
    """A line as text.

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(
                "found text in UTF-16, expected UTF-8: convert it, for example with iconv", file=name, line=number
            ) from error
        raise DataError(
            f"found the byte 0x{raw[error.start]:02x} at column {error.start + 1}, which is not UTF-8"
            f" ({error.reason}); expected a file in UTF-8: convert it, for example with iconv",
            file=name,
            line=number,
        ) from error
