"""Compression of requests and answers, as ClickHouse's HTTP clients use it (`Content-Encoding`)."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import lz4.frame  # type: ignore[import-untyped]  # ships no types; comes with clickhouse-connect
from backports import zstd  # comes with clickhouse-connect

#: Unpacked data is handed on in pieces of at most this size, so that a bomb is noticed at its first megabyte.
PIECE_BYTES: Final = 1 << 20


class UnpackError(Exception):
    """The body is not what its Content-Encoding says, is cut off, or unpacks beyond the limit."""


class _Unpacker(Protocol):
    """One frame's decompressor, in the manner of `bz2.BZ2Decompressor`."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zlib:
    """zlib's decompressor in that manner."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))


_UNPACKERS: Final[dict[str, Callable[[], Any]]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
}

#: What answers may be packed with, best first: speed counts on a local connection.
ANSWER_ENCODINGS: Final = ("lz4", "zstd", "gzip", "deflate")


def is_known(encoding: str) -> bool:
    """True if a request may come with this Content-Encoding."""
    return encoding in _UNPACKERS or encoding in {"", "identity"}


def unpack(encoding: str, body: bytes, max_bytes: int) -> Iterator[bytes]:
    """The body unpacked, in pieces; clients send several frames one after the other. Raises `UnpackError`."""
    total = 0
    for piece in _plain(body) if encoding in {"", "identity"} else _frames(_UNPACKERS[encoding], body):
        total += len(piece)
        if total > max_bytes:
            raise UnpackError(f"the body unpacks to more than {max_bytes} bytes")
        if piece:
            yield piece


def _plain(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


def _frames(make: Callable[[], _Unpacker], body: bytes) -> Iterator[bytes]:
    rest = body
    try:
        while rest:
            unpacker = make()
            yield unpacker.decompress(rest, PIECE_BYTES)
            while not unpacker.eof and not unpacker.needs_input:
                yield unpacker.decompress(b"", PIECE_BYTES)
            if not unpacker.eof:
                raise UnpackError("the body is cut off")
            rest = unpacker.unused_data or b""
    except (RuntimeError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise UnpackError(str(error)) from error


class Packer:
    """Packs an answer piece by piece; each piece can be unpacked as soon as it arrives."""

    def __init__(self, encoding: str | None) -> None:
        self._pack, self._end, self._head = _packers(encoding)

    def pack(self, data: bytes) -> bytes:
        """`data`, packed."""
        head, self._head = self._head, b""
        return head + self._pack(data)

    def end(self) -> bytes:
        """What belongs after the last piece."""
        head, self._head = self._head, b""
        return head + self._end()


def _packers(encoding: str | None) -> tuple[Callable[[bytes], bytes], Callable[[], bytes], bytes]:
    match encoding:
        case "lz4":
            frame = lz4.frame.LZ4FrameCompressor(auto_flush=True)
            return frame.compress, frame.flush, frame.begin()
        case "zstd":
            packer = zstd.ZstdCompressor()
            return lambda data: packer.compress(data, packer.FLUSH_BLOCK), packer.flush, b""
        case "gzip" | "deflate":
            deflater = zlib.compressobj(wbits=zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
            return lambda d: deflater.compress(d) + deflater.flush(zlib.Z_SYNC_FLUSH), deflater.flush, b""
        case _:
            return lambda data: data, lambda: b"", b""
