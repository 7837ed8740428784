"""The bounds of the embedded ClickHouse endpoint."""

from dataclasses import dataclass
from typing import Final

MEGABYTE: Final = 1_000_000

#: The engine before its first query: code, caches, idle threads (measured 280 MB, of which most is the library).
ENGINE_BASE_BYTES: Final = 280 * MEGABYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLimits:
    """How much of the machine the endpoint may take.

    Three lanes share the engine, each with threads and a queue of its own: one thread that writes, `read_threads`
    for the writer's own questions, `reader_threads` for readers. So a reader's heavy query delays other readers,
    never an insert. The memory of all lanes together, at their limits, fits under `server_memory_bytes`.
    """

    #: The whole process, about: what the allocators have not given back yet comes on top (measured 0.95 GB, at its
    #: peak 1.14 GB, while clients started and abandoned 130 queries a second over 250,000 wide rows).
    server_memory_bytes: int = 1_000 * MEGABYTE
    #: One statement that writes. An insert of 50,000 rows of a kilobyte needs about 120 MB.
    write_memory_bytes: int = 200 * MEGABYTE
    #: One query that reads (error 241). Grouping and sorting go to disk at a quarter of it: 850,000 groups of wide
    #: rows fit, sorting as many rows of a kilobyte whole does not (their newest thousand do).
    read_memory_bytes: int = 130 * MEGABYTE
    read_threads: int = 2
    reader_threads: int = 2
    #: Requests that wait for a thread, per lane; beyond it 503 (error 202).
    waiting_max: int = 64
    #: How long a request waits for a thread before the same 503.
    waiting_timeout_s: float = 30.0
    #: One query that reads (error 159); sending its result may take as long again.
    read_timeout_s: float = 60.0
    #: One statement that writes. Generous: an insert that is cut off must be sent again.
    write_timeout_s: float = 600.0
    #: A statement without its data; the engine's own default.
    query_max_bytes: int = 262_144
    #: A request's body as received. The audit writer's blocks are a tenth of it.
    body_max_bytes: int = 128 * MEGABYTE
    #: A request's body unpacked: what a compression bomb may grow to.
    unpacked_max_bytes: int = 512 * MEGABYTE
    #: Large bodies held in memory at once, from their first byte to the end of their insert.
    bodies_max: int = 4
    #: How long a client may take to send a body.
    body_timeout_s: float = 60.0
    #: A result that is built whole before it is sent: Parquet, Arrow, JSON documents (error 396).
    buffered_result_max_bytes: int = 64 * MEGABYTE
    #: A result that is sent block by block (Native, CSV, JSON lines).
    streamed_result_max_bytes: int = 2_000 * MEGABYTE

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"EndpointLimits.{name} must be above zero")
        lanes = self.write_memory_bytes + (self.read_threads + self.reader_threads) * self.read_memory_bytes
        if lanes > self.engine_memory_bytes:
            raise ValueError(
                f"EndpointLimits: the lanes may take {lanes} bytes and the engine itself {ENGINE_BASE_BYTES}, more "
                f"than server_memory_bytes ({self.server_memory_bytes}); raise it, or lower the lanes' limits"
            )

    @property
    def engine_memory_bytes(self) -> int:
        """What all statements and background merges may allocate together; the engine refuses more (error 241)."""
        return self.server_memory_bytes - ENGINE_BASE_BYTES
