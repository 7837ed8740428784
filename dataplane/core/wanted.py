"""What a request asks of the governor."""

from typing import Final, final

from dataplane.core.access import Caller
from schemas.amounts import Amounts


@final
class Wanted:
    """What a request asks of the governor, once the adapter has read it.

    `digest`: SHA-256 of the token it came with. `stream`: the answer is relayed as a stream of events. `idempotency`:
    digest of its idempotency key (dataplane.core.repeats), "" if it has none.
    """

    __slots__ = (
        "bound",
        "caller",
        "client",
        "digest",
        "idempotency",
        "method",
        "model",
        "operation",
        "path",
        "segments",
        "stream",
        "upstream",
    )

    def __init__(
        self,
        caller: Caller,
        digest: bytes,
        upstream: str,
        operation: str,
        method: str,
        path: str,
        segments: tuple[str, ...],
        bound: Amounts,
        *,
        model: str = "",
        client: str = "",
        stream: bool = False,
        idempotency: str = "",
    ) -> None:
        self.caller: Final = caller
        self.digest: Final = digest
        self.upstream: Final = upstream
        self.operation: Final = operation
        self.method: Final = method
        self.path: Final = path
        self.segments: Final = segments
        self.bound: Final = bound
        self.model: Final = model
        self.client: Final = client
        self.stream: Final = stream
        self.idempotency: Final = idempotency
