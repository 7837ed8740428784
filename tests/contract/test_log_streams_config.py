"""The configuration that a log's stream must have, on a real nats-server."""

import json

import pytest
from support.nats_server import RunningNats, nats_server

from controlplane.up.nats.limits import MIB
from events.log.streams import StreamUnsafe, control_stream, nodes_stream, stream_config
from events.subjects import NODE_MARK

__all__ = ["nats_server"]


async def test_an_unsafe_stream_is_refused_and_a_narrow_one_widened(nats_server: RunningNats) -> None:
    control = await nats_server.connect("control")
    narrow = nodes_stream(16 * MIB)
    stream = await control.ensure_stream(narrow)
    assert (await stream.state()).max_bytes == 16 * MIB
    await control.ensure_stream(nodes_stream(32 * MIB))
    assert (await stream.state()).max_bytes == 32 * MIB
    await control.ensure_stream(narrow)
    assert (await stream.state()).max_bytes == 32 * MIB, "never narrower"
    spec = control_stream(16 * MIB)
    for setting, value in (("discard", "old"), ("max_age", 3_600_000_000_000), ("max_msgs_per_subject", 5)):
        unsafe = {**stream_config(spec), setting: value}
        await control.bus.request("$JS.API.STREAM.CREATE.RF_CONTROL", json.dumps(unsafe).encode(), 5.0)
        with pytest.raises(StreamUnsafe, match=setting):
            await control.ensure_stream(spec)
        await control.bus.request("$JS.API.STREAM.DELETE.RF_CONTROL", b"", 5.0)
    await control.ensure_stream(spec)


async def test_single_messages_cannot_be_deleted_even_by_the_control_plane(nats_server: RunningNats) -> None:
    _, nodes = await nats_server.streams()
    await nodes.publish(NODE_MARK, b"kept", msg_id=None, expect=None, timeout_s=5.0)
    control = await nats_server.connect("control")
    answer = await control.bus.request("$JS.API.STREAM.MSG.DELETE.RF_NODES", b'{"seq": 1}', 5.0)
    assert "error" in json.loads(answer)
    assert await nodes.get(1) is not None
