"""What it takes to refuse a request at the door of a full node: decision, answer and record, without I/O."""

import asyncio
import time

from support.proxy_rig import AUTH, CHARGE, FORM, ProxyRig

from bench.run import Run
from schemas.accounts import Cap

ROUNDS, REFUSALS = 5, 5_000


class _Connection:
    """What the door remembers on one."""

    arrived_ns = 0
    turned_away = False
    flow = ""
    token = b""
    digest = b""


def measure(run: Run, row: str) -> float:
    """Microseconds of CPU; the figure is `door_us` of `row`."""
    return run.add(row, "ringfence", "door_us", asyncio.run(_rounds()))


async def _rounds() -> list[float]:
    rig = await ProxyRig().start(Cap("usd", "day", 10**12))
    door, connection, request = rig.proxy.door, _Connection(), _request()
    door.shedder.limit = 1
    door.shedder.hold("others")
    took_us = []
    try:
        for _ in range(ROUNDS):
            began_ns = time.thread_time_ns()
            for _ in range(REFUSALS):
                if door.arrive(connection, request) is None:
                    raise RuntimeError("a full node has admitted a request")
            took_us.append((time.thread_time_ns() - began_ns) / 1_000 / REFUSALS)
    finally:
        door.shedder.release("others")
        await rig.stop()
    return took_us


def _request() -> bytes:
    fields = {"Host": "127.0.0.1", **AUTH, **FORM, "Content-Length": str(len(CHARGE))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /stripe/v1/charges HTTP/1.1\r\n{lines}\r\n".encode() + CHARGE
