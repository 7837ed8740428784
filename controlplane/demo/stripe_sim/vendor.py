"""The simulated Stripe as a vendor: authenticate, replay, execute, answer."""

from controlplane.demo.credentials import same_or_false
from controlplane.demo.ids import Ids
from controlplane.demo.stripe_sim import payments, routes
from controlplane.demo.stripe_sim.idempotency import Claim, Keys, Remembered
from controlplane.demo.stripe_sim.records import Account
from controlplane.demo.stripe_sim.refuse import Refused
from controlplane.demo.wire import Answer, Call, Move

API_VERSION = "2026-10-28.endive"


class StripeVendor:
    """See `controlplane.demo.wire.Vendor`. `secret_key` is the only credential that it accepts."""

    name = "stripe"
    body_limit_bytes = 1 << 20  # Stripe's form requests are a few kilobytes

    def __init__(self, secret_key: str, seed: bytes) -> None:
        self._secret_key = secret_key
        self._ids = Ids(seed)
        self.reset()

    def reset(self) -> None:
        """Forget all objects and keys. Ids go on counting: an id is never used twice."""
        self.account = Account(self._ids)
        self._keys = Keys()
        self._claims: dict[str, Claim] = {}  # by request id; bounded by the requests in flight

    def begin(self, call: Call) -> Answer | None:
        refused = self._authenticate(call)
        if refused:
            return self._answer(call, refused.status, refused.body())
        key = call.header("Idempotency-Key")
        if not key or call.method != "POST":
            return None
        claim = self._keys.claim(key, call.path, call.body)
        if isinstance(claim, Refused):
            return self._answer(call, claim.status, claim.body())
        if isinstance(claim, Remembered):
            extra = (("Idempotent-Replayed", "true"), ("Original-Request", claim.request_id))
            return self._answer(call, claim.status, claim.body, extra, replayed=True)
        self._claims[call.request_id] = claim
        return None

    def execute(self, call: Call) -> Answer:
        result = routes.perform(self.account, call)
        claim = self._claims.pop(call.request_id, None)
        moves: tuple[Move, ...] = ()
        if isinstance(result, Refused):
            status, body, executed = result.status, result.body(), result.attempted
        else:
            status, body, executed, moves = 200, result.body, True, result.moves
        if claim and executed:
            self._keys.remember(claim, call.request_id, status, body)
        elif claim:
            self._keys.forget(claim)
        self._post(moves)
        return self._answer(call, status, body, executed=executed, moves=moves)

    def abandon(self, call: Call) -> None:
        claim = self._claims.pop(call.request_id, None)
        if claim:
            self._keys.forget(claim)

    def failure(self, call: Call, status: int, message: str) -> Answer:
        refused = Refused(
            status,
            message,
            code="rate_limit" if status == 429 else "",
            type="api_error" if status >= 500 else "invalid_request_error",
        )
        return self._answer(call, status, refused.body())

    def settle(self, object_id: str, now_s: int, *, succeeds: bool) -> tuple[Move, ...] | None:
        """Let pending money arrive or fail (`payments.settle`); None if that intent waits for nothing."""
        intent = self.account.intents.get(object_id)
        moves = payments.settle(self.account, intent, now_s, succeeds=succeeds) if intent else None
        self._post(moves or ())
        return moves

    def _post(self, moves: tuple[Move, ...]) -> None:
        for move in moves:
            before = self.account.balance.get(move.currency, 0)
            self.account.balance[move.currency] = before + move.moved - move.refunded

    def _authenticate(self, call: Call) -> Refused | None:
        if not call.token:
            return Refused(
                401,
                "You did not provide an API key. You need to provide your API key in the Authorization header, "
                "using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
            )
        if not same_or_false(call.token, self._secret_key):
            # As the real vendor does, so that a gateway can be seen not to pass it on.
            return Refused(401, f"Invalid API Key provided: {call.token[:7]}****{call.token[-4:]}")
        if call.header("Stripe-Account"):
            return Refused(403, "The provided key does not have access to that account.", code="account_invalid")
        return None

    def _answer(
        self,
        call: Call,
        status: int,
        body: bytes,
        extra: tuple[tuple[str, str], ...] = (),
        *,
        executed: bool = False,
        replayed: bool = False,
        moves: tuple[Move, ...] = (),
    ) -> Answer:
        headers = [
            ("Request-Id", call.request_id),
            ("Stripe-Version", call.header("Stripe-Version") or API_VERSION),
            *extra,
        ]
        key = call.header("Idempotency-Key")
        if key and call.method == "POST":
            headers.append(("Idempotency-Key", key))
        if status == 401:
            headers.append(("WWW-Authenticate", 'Bearer realm="Stripe"'))
        return Answer(status, body, tuple(headers), executed=executed, replayed=replayed, moves=moves)
