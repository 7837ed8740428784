"""TLS between the parts: it works end to end, strangers are refused, and nobody falls back to plain text."""

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from support.certificates import Authority
from support.log_harness import insist, until
from support.nats_cluster import RunningCluster, running_cluster
from support.nats_server import running_nats

from controlplane.up.nats.setup import write_config
from dataplane.answer import Answer, whole
from dataplane.incoming import Incoming
from dataplane.server import Listening, listen
from events.messaging.connection import connect
from events.messaging.credentials import NatsCredentials
from events.messaging.port import BusUnavailable
from events.subjects import NODE_MARK, rpc
from events.tls import TlsUnusable, client_tls, server_tls
from schemas.tls import TlsClient, TlsServer


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


# ---------------------------------------------------------------------- NATS


async def refused(credentials: NatsCredentials) -> str:
    with pytest.raises(BusUnavailable) as failure:
        await connect(credentials, name="stranger", timeout_s=0.6)
    assert credentials.password not in str(failure.value)
    return str(failure.value)


async def test_nats_speaks_tls_with_certificates_on_both_sides(
    tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    async with running_nats(tmp_path, tls=ours.nats(), client_tls=ours.client()) as server:
        _, nodes = await server.streams()
        assert (await nodes.publish(NODE_MARK, b"m", msg_id=None, expect=None, timeout_s=5.0)).sequence == 1
        node = await server.connect("n1")
        await node.bus.flush()
        good = server.credentials("n1")
        for tls, why in (
            (theirs.client(), "certificate verify failed"),  # of the server
            (TlsClient(ca_file=ours.ca_file, cert_file=theirs.client_cert, key_file=theirs.client_key), ""),
            (ours.client(with_certificate=False), ""),  # none of its own
            (TlsClient(), "certificate verify failed"),  # the system's authorities have never heard of it
            (None, ""),  # plain text
        ):
            text = await refused(msgspec.structs.replace(good, tls=tls))
            assert why in text, (tls, text)
        wrong_name = msgspec.structs.replace(ours.client(), server_name="elsewhere.example")
        assert "Hostname mismatch" in await refused(msgspec.structs.replace(good, tls=wrong_name))
        await node.bus.flush()


async def test_a_server_without_tls_gets_no_password(tmp_path: Path, ours: Authority) -> None:
    heard: list[bytes] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "x", "version": "2.15.1", "max_payload": 1048576, "auth_required": true}\r\n')
        heard.append(await reader.read(4096))
        writer.close()

    listener = await asyncio.start_server(impostor, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    credentials = NatsCredentials(
        servers=(url,), user="n1", password="p5ecret", inbox_prefix="_INBOX_n1", tls=ours.client()
    )
    assert "does not speak TLS" in await refused(credentials)
    listener.close()
    await until(lambda: len(heard) > 0)
    assert b"".join(heard) == b""


async def test_a_handshake_that_never_ends_is_given_up_for_another_server(tmp_path: Path, ours: Authority) -> None:
    # The transport of a handshake that is broken off never says that it is closed; the library would wait for that.
    held: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        writer.write(b'INFO {"server_id": "x", "version": "2.15.1", "max_payload": 1048576, "tls_required": true}\r\n')

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    credentials = NatsCredentials(
        servers=(url,), user="n1", password="p5ecret", inbox_prefix="_INBOX_n1", tls=ours.client()
    )
    await asyncio.wait_for(refused(credentials), 30.0)
    assert held, "it was asked"
    async with running_nats(tmp_path, tls=ours.nats(), client_tls=ours.client()) as server:
        either = msgspec.structs.replace(server.credentials("n1"), servers=(url, server.url))
        opened = await asyncio.gather(*(connect(either, name="either", timeout_s=30.0) for _ in range(6)))
        for connection in opened:
            await connection.bus.flush(5.0)
            await connection.close()
    listener.close()
    for writer in held:
        writer.transport.abort()


async def test_a_cluster_with_tls_on_every_way(tmp_path: Path, ours: Authority, theirs: Authority) -> None:
    with running_cluster(tmp_path, tls=ours.nats(), route_tls=ours.nats(), client_tls=ours.client()) as cluster:
        _, nodes = await cluster.streams()
        await cluster.leader()  # all three replicas are current: the routes carry
        ack = await insist(lambda: nodes.publish(NODE_MARK, b"m", msg_id="m", expect=None, timeout_s=1.0))
        assert ack.sequence == 1
        stranger = TlsClient(ca_file=ours.ca_file, cert_file=theirs.client_cert, key_file=theirs.client_key)
        for files in (ours.client(with_certificate=False), stranger):
            assert await route_says(cluster, client_tls(files).ssl) == b"", "a route needs a certificate of ours"
        signed_in = await route_says(cluster, client_tls(ours.client()).ssl, as_route=True)
        assert b"cluster name" in signed_in, "it is let in, and turns out to be no server"
        assert b"'Authorization Violation'" in await route_says(cluster, client_tls(ours.client()).ssl)
        await cluster.clear()


async def route_says(cluster: RunningCluster, tls: ssl.SSLContext, *, as_route: bool = False) -> bytes:
    """What a server answers to somebody who signs in at its route's port: with a slot's password, or the routes'."""
    config = cluster.members[0].setup.config.read_text()
    port = int(config.partition("cluster {")[2].partition("port: ")[2].split()[0])
    passwords = (cluster.members[0].setup.config.parent.parent / "passwords.conf").read_text()
    user = "route" if as_route else "n1"
    word = passwords.partition(f'RF_NATS_{user}: "')[2].partition('"')[0]
    asked = {"user": user, "pass": word, "verbose": False, "name": "stranger", "tls_required": True}
    heard = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
            with contextlib.closing(writer.transport):
                writer.write(b"CONNECT " + json.dumps(asked).encode() + b"\r\nPING\r\n")
                while line := await reader.readline():
                    heard += line
    return heard


async def test_passwords_and_certificates_change_while_messages_flow(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    both = tmp_path / "both.pem"
    both.write_text(Path(old.ca_file).read_text() + Path(new.ca_file).read_text())
    mine = TlsClient(ca_file=str(both), cert_file=old.client_cert, key_file=old.client_key)
    server_files = type(old.nats())(old.server_cert, old.server_key, str(both), verify=True)
    async with running_nats(tmp_path, tls=server_files, client_tls=mine) as server:
        node = await server.connect("n1")
        first = server.credentials("n1")
        # The authority changes: the files that both sides name get certificates of the new one.
        for replaced, fresh in (
            (old.server_cert, new.server_cert),
            (old.server_key, new.server_key),
            (old.client_cert, new.client_cert),
            (old.client_key, new.client_key),
        ):
            Path(replaced).write_bytes(Path(fresh).read_bytes())
        server.reload()
        await until_async(lambda: node.renew(first))
        only_new = msgspec.structs.replace(first, tls=new.client())
        stranger_to_the_old = await connect(only_new, name="new authority")  # the server shows its new certificate
        await stranger_to_the_old.close()
        # The password changes at the server; the client is told afterwards, and serves again.
        (tmp_path / "nats" / "passwords.conf").unlink()
        server.setup = write_config(tmp_path / "nats", limits=server.limits, slots=server.setup.slots, tls=server_files)
        server.reload()
        await until(lambda: not node.connected or node.last_error != "", 20.0)
        second = server.credentials("n1")
        assert second.password != first.password
        await node.renew(second)
        await until(lambda: node.connected, 20.0)
        await node.bus.flush(5.0)
        assert first.password not in node.last_error + second.password
        with pytest.raises(ValueError, match="another user's"):
            await node.renew(server.credentials("n2"))


async def test_a_renewed_connection_misses_nothing(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as server:
        control, node = await server.connect("control"), await server.connect("n1")
        states: list[bool] = []
        node.bus.on_connection(states.append)

        async def answer(message) -> None:
            await asyncio.sleep(0.05)
            await control.bus.respond(message.reply, message.payload)

        await control.bus.subscribe("rf.rpc.*.*", answer, max_concurrent=64)
        await control.bus.flush()
        for round_ in range(5):
            asked = [asyncio.ensure_future(node.bus.request(rpc("n1", "ask"), b"%d" % n, 5.0)) for n in range(20)]
            await asyncio.sleep(0.01)
            assert await node.renew(server.credentials("n1")), round_
            assert await asyncio.gather(*asked) == [b"%d" % n for n in range(20)]
        assert states == [], "nobody noticed"
        wrong = msgspec.structs.replace(server.credentials("n1"), password="p-wrong")
        assert not await node.renew(wrong), "kept the connection that works"
        await node.bus.flush()
        assert await node.renew(server.credentials("n1"))


async def until_async(call) -> None:
    async with asyncio.timeout(20.0):
        while not await call():
            await asyncio.sleep(0.1)


# ---------------------------------------------------------------------- our own listeners


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[tuple[Listening, Authority, object]]:
    authority = Authority(tmp_path / "proxy")
    tls = server_tls(authority.server())

    async def handle(request: Incoming) -> Answer:
        return whole(200, [], b"governed", request, keep_alive=True)

    listening = await listen(handle, os.urandom, "127.0.0.1", 0, shared=True, tls=tls.ssl)
    yield listening, authority, tls
    listening.stop_accepting()
    await listening.close(1.0)


async def get(url: str, tls: ssl.SSLContext | bool) -> str:
    async with aiohttp.ClientSession() as session, session.get(url, ssl=tls) as answer:
        return await answer.text()


async def test_the_proxys_listener_speaks_tls_alone_and_takes_new_certificates(proxy, theirs: Authority) -> None:
    listening, authority, tls = proxy
    url = f"https://127.0.0.1:{listening.port}/stripe/v1/charges"
    trusting = client_tls(authority.client(with_certificate=False))
    assert await get(url, trusting.ssl) == "governed"
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await get(url, client_tls(theirs.client()).ssl)
    with pytest.raises(aiohttp.ClientError):
        await get(url.replace("https:", "http:"), True)
    before = await certificate(listening.port, trusting.ssl)
    authority.issue("server")
    assert await certificate(listening.port, trusting.ssl) == before, "not before it is told"
    tls.renew()
    assert await certificate(listening.port, trusting.ssl) != before
    Path(authority.server_key).write_text("not a key")
    with pytest.raises(TlsUnusable, match="cannot be used"):
        tls.renew()
    assert await get(url, trusting.ssl) == "governed", "the good pair stays"


async def test_a_listener_can_ask_clients_for_certificates(tmp_path: Path, ours: Authority, theirs: Authority) -> None:
    async def handle(request: Incoming) -> Answer:
        return whole(200, [], b"known", request, keep_alive=True)

    listening = await listen(
        handle, os.urandom, "127.0.0.1", 0, shared=True, tls=server_tls(ours.server(verify=True)).ssl
    )
    url = f"https://127.0.0.1:{listening.port}/"
    assert await get(url, client_tls(ours.client()).ssl) == "known"
    stranger = TlsClient(ca_file=ours.ca_file, cert_file=theirs.client_cert, key_file=theirs.client_key)
    for files in (ours.client(with_certificate=False), stranger):
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await get(url, client_tls(files).ssl)
    listening.stop_accepting()
    await listening.close(1.0)


async def certificate(port: int, context: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


def test_files_that_cannot_be_used_are_named(tmp_path: Path, ours: Authority, theirs: Authority) -> None:
    missing = str(tmp_path / "none.pem")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nsecretbytes\n-----END CERTIFICATE-----\n")
    for make in (
        lambda: server_tls(TlsServer(cert_file=missing, key_file=ours.server_key)),
        lambda: server_tls(TlsServer(cert_file=ours.server_cert, key_file="")),
        lambda: server_tls(TlsServer(cert_file=ours.server_cert, key_file=theirs.server_key)),
        lambda: client_tls(TlsClient(ca_file=str(broken))),
        lambda: client_tls(TlsClient(ca_file=ours.ca_file, cert_file=ours.client_cert)),
    ):
        with pytest.raises(TlsUnusable, match="TLS: ") as refusal:
            make()
        assert "secretbytes" not in str(refusal.value)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


async def test_client_certificates_are_an_option(tmp_path: Path, ours: Authority) -> None:
    async with running_nats(tmp_path, tls=ours.nats(verify=False), client_tls=ours.client()) as server:
        only_ca = msgspec.structs.replace(server.credentials("n1"), tls=ours.client(with_certificate=False))
        connection = await connect(only_ca, name="no certificate asked for")
        await connection.bus.flush()
        await connection.close()
