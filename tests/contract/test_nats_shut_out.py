"""A slot whose credential was stolen is taken out, or gets another password: who holds the old one is shut out at once."""

import asyncio
from pathlib import Path

import msgspec
import nats
import pytest
from support.log_harness import until
from support.nats_server import RunningNats, nats_server

from controlplane.up.nats.setup import write_config
from events.messaging.connection import connect
from events.messaging.port import BusUnavailable

__all__ = ["nats_server"]


@pytest.mark.parametrize("how", ["the slot is taken out", "its password is changed"])
async def test_a_reload_ends_the_connections_of_a_stolen_credential(
    nats_server: RunningNats, tmp_path: Path, how: str
) -> None:
    stolen = nats_server.credentials("n1")
    gone = asyncio.Event()

    async def closed() -> None:
        gone.set()

    async def quiet(_: Exception) -> None:
        pass

    thief = await nats.connect(
        nats_server.url,
        user=stolen.user,
        password=stolen.password,
        inbox_prefix=stolen.inbox_prefix,
        allow_reconnect=False,
        closed_cb=closed,
        error_cb=quiet,
    )
    other = await nats_server.connect("n2")
    passwords = tmp_path / "nats" / "passwords.conf"
    slots = tuple(slot for slot in nats_server.setup.slots if slot != "n1")
    if how == "its password is changed":
        passwords.write_text(passwords.read_text().replace(stolen.password, "p" + "0" * 48))
        slots = tuple(nats_server.setup.slots)
    nats_server.setup = write_config(tmp_path / "nats", slots=slots, limits=nats_server.limits)
    nats_server.reload()
    await asyncio.wait_for(gone.wait(), 20.0)
    assert thief.is_closed
    with pytest.raises(BusUnavailable, match=r"(?i)authorization violation"):
        await connect(stolen, name="thief", timeout_s=1.0)
    await until(lambda: other.connected)
    await other.bus.flush(5.0)
    if how == "its password is changed":
        renewed = msgspec.structs.replace(stolen, password="p" + "0" * 48)
        node = await connect(renewed, name="n1 again")
        await node.bus.flush(5.0)
        await node.close()
