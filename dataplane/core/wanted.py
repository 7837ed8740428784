"""What a request asks of the governor."""

import msgspec

from dataplane.core.access import Caller
from schemas.amounts import Amounts


class Wanted(msgspec.Struct, frozen=True):
    """What a request asks of the governor, once the adapter has read it.

    `digest`: SHA-256 of the token it came with. `stream`: the answer is relayed as a stream of events. `idempotency`:
    digest of its idempotency key (dataplane.core.repeats), "" if it has none.
    """

    caller: Caller
    digest: bytes
    upstream: str
    operation: str
    method: str
    path: str
    segments: tuple[str, ...]
    bound: Amounts
    model: str = ""
    client: str = ""
    stream: bool = False
    idempotency: str = ""
