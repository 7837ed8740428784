"""What the simulated account holds: intents, charges, refunds, customers. No behaviour, no JSON."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from controlplane.demo.ids import Ids
from controlplane.demo.wire import Move

OBJECT_LIMIT = 100_000  # per kind; the oldest is forgotten, as a load test never looks back that far

IntentStatus = Literal[
    "requires_payment_method",
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_capture",
    "succeeded",
    "canceled",
]
ChargeStatus = Literal["succeeded", "pending", "failed"]


@dataclass(slots=True)
class Intent:
    """A PaymentIntent. Amounts in minor units; `echoed` are parameters kept only to be shown again."""

    id: str
    client_secret: str
    created_s: int
    amount: int
    currency: str
    status: IntentStatus = "requires_payment_method"
    capture_method: str = "automatic"
    amount_capturable: int = 0
    amount_received: int = 0
    overcapture: bool = False
    customer: str | None = None
    payment_method: str | None = None
    latest_charge: str | None = None
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    echoed: dict[str, Any] = field(default_factory=dict)
    last_error: dict[str, Any] | None = None
    canceled_at_s: int | None = None
    cancellation_reason: str | None = None


@dataclass(slots=True)
class Charge:
    """A Charge, of an intent (`intent`) or made directly. `source` names the card."""

    id: str
    created_s: int
    amount: int
    currency: str
    source: str
    status: ChargeStatus = "succeeded"
    captured: bool = False
    amount_captured: int = 0
    amount_refunded: int = 0
    released: bool = False  # authorised, then let go without capture
    overcapture: bool = False
    intent: str | None = None
    customer: str | None = None
    description: str | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    echoed: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Refund:
    id: str
    created_s: int
    amount: int
    currency: str
    charge: str
    intent: str | None
    status: str
    reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Customer:
    """A Customer. `source` is the card charged when a charge names only the customer."""

    id: str
    created_s: int
    source: str | None = None
    email: str | None = None
    deleted: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    echoed: dict[str, Any] = field(default_factory=dict)


class HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


class Store(Generic[T]):
    """Objects of one kind in order of creation, bounded, with pages from the newest to the oldest."""

    def __init__(self, limit: int = OBJECT_LIMIT) -> None:
        self._limit = limit
        self._number: dict[str, int] = {}
        self._objects: dict[int, T] = {}
        self._next = 0
        self._oldest = 0

    def add(self, item: T) -> None:
        self._number[item.id] = self._next
        self._objects[self._next] = item
        self._next += 1
        if len(self._objects) > self._limit:
            forgotten = self._objects.pop(self._oldest)
            del self._number[forgotten.id]
            self._oldest += 1

    def get(self, object_id: str) -> T | None:
        number = self._number.get(object_id)
        return None if number is None else self._objects[number]

    def older_than(self, object_id: str | None) -> Iterator[T]:
        """Newest first, beginning after `object_id` (which must exist), or with the newest of all."""
        start = self._next if object_id is None else self._number[object_id]
        for number in range(start - 1, self._oldest - 1, -1):
            yield self._objects[number]

    def newer_than(self, object_id: str) -> Iterator[T]:
        """Oldest first, beginning after `object_id`."""
        for number in range(self._number[object_id] + 1, self._next):
            yield self._objects[number]


AnyStore = Store[Intent] | Store[Charge] | Store[Refund] | Store[Customer]


class Account:
    """The whole state of the simulated account. The two sums per currency make up its balance."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.intents: Store[Intent] = Store()
        self.charges: Store[Charge] = Store()
        self.refunds: Store[Refund] = Store()
        self.customers: Store[Customer] = Store()
        self.balance: dict[str, int] = {}  # bounded: currencies of one table

    def store(self, collection: str) -> AnyStore:
        """The objects of `payment_intents`, `charges`, `refunds` or `customers`."""
        stores: dict[str, AnyStore] = {
            "payment_intents": self.intents,
            "charges": self.charges,
            "refunds": self.refunds,
            "customers": self.customers,
        }
        return stores[collection]


@dataclass(frozen=True, slots=True)
class Done:
    """An operation that succeeded: the object to show, and what it did to money."""

    item: Intent | Charge | Refund | Customer
    moves: tuple[Move, ...] = ()
