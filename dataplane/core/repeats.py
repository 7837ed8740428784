"""Which requests repeat one call: those that carry the same idempotency key to the same account of a vendor (rule S1).

The digest stands in the log instead of the key, which is the client's own text and may be long or private.
"""

import hashlib
from typing import Final

DIGEST_CHARS: Final = 16
"""64 bits: only the calls of one vault key are ever compared, within a day."""


def repeat_digest(upstream: str, account: str, key_id: str, idempotency: str) -> str:
    """The digest for RequestAdmitted.idempotency; "" without an idempotency key.

    `account`: the vendor's account if the call switches it. The vault key belongs to it because the gateway makes
    idempotency keys the vault key's own, so that two vault keys never share an answer.
    """
    if not idempotency:
        return ""
    whole = f"{upstream}\0{account}\0{key_id}\0{idempotency}"  # none of the first three can hold a NUL
    return hashlib.sha256(whole.encode()).hexdigest()[:DIGEST_CHARS]
