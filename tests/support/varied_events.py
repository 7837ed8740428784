"""Events of every kind with all kinds of values, drawn by seed."""

from random import Random
from typing import Any, get_args

from msgspec import inspect

from controlplane.audit.messages import Distrusted
from events.codec import Batch
from events.log.port import Stored
from events.types import Event

KINDS = (*get_args(Event), Distrusted)
AMOUNTS = frozenset({"usd", "refund", "exposure_nanos"})
TEXTS = ("", "", "a", "ä\u20ac\0", "'\\\"\n\t", "x" * 200, "long " * 200)
NUMBERS = (0, 0, 1, 7, 60_000)


def varied_messages(dice: Random, count: int, at_ns: int) -> list[tuple[Stored, Batch]]:
    """Messages of one log as it stores them, of 0 to 30 events each."""
    return [_message(dice, seq, at_ns) for seq in range(1, count + 1)]


def _message(dice: Random, seq: int, at_ns: int) -> tuple[Stored, Batch]:
    events = tuple(varied_event(dice, dice.choice(KINDS), at_ns) for _ in range(dice.randrange(31)))
    actor = dice.choice(("n1-a", "n2-b", "control"))
    return Stored(seq, "", b"", at_ns + seq), Batch(actor, seq, at_ns + 2 * seq, events)


def varied_event(dice: Random, kind: type, at_ns: int) -> Any:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return kind(**{field.name: _value(dice, field.name, field.type, at_ns) for field in info.fields})


def _value(dice: Random, name: str, kind: inspect.Type, at_ns: int) -> Any:
    match kind:
        case inspect.IntType():
            if name.endswith("_ns"):
                return dice.choice((0, at_ns + dice.randrange(10**12)))
            if name == "attempt":
                return dice.choice((1, 1, 2))
            return dice.choice((*NUMBERS, 2**62)) if name in AMOUNTS else dice.choice(NUMBERS)
        case inspect.StrType():
            return f"req_{dice.randrange(20)}" if name == "request_id" else dice.choice(TEXTS)
        case inspect.BoolType():
            return dice.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.LiteralType():
            return dice.choice(kind.values)
        case inspect.UnionType():
            return _value(dice, name, dice.choice(kind.types), at_ns)
        case inspect.StructType():
            return varied_event(dice, kind.cls, at_ns)
        case inspect.VarTupleType():
            return tuple(_value(dice, name, kind.item_type, at_ns) for _ in range(dice.randrange(3)))
        case inspect.DictType():
            values = kind.value_type
            return {f"{n}": _value(dice, name, values, at_ns) for n in range(dice.randrange(3))}
    raise NotImplementedError(kind)
