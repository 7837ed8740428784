"""ClickHouse as the audit uses it: one asynchronous HTTP client, embedded and server alike."""

import asyncio
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import aiohttp
import clickhouse_connect
from aiohttp.payload import TOO_LARGE_BYTES_BODY
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from controlplane.audit.merge import merge_everything
from controlplane.audit.packed import Packed, pack
from controlplane.process_settings import ClickHouseAccess

QUERY_TIMEOUT_S = 30
"""Reports over millions of rows take a second or two; a hung server must not hold a caller for ever."""

UNREACHABLE = (ClickHouseError, aiohttp.ClientError, OSError, asyncio.TimeoutError)
"""What a call may raise: the server's error, or none from it."""


MIGRATIONS = {1: merge_everything}
"""Steps that bring an older directory's rows to this version's tables, in order. Each may be begun again."""


class StoreUnavailable(Exception):
    """ClickHouse did not do it; the message says what it said, without secrets."""


class Store:
    """One ClickHouse. Connects at first use, and anew after a failure."""

    def __init__(self, access: ClickHouseAccess) -> None:
        self._access = access
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a SELECT. Raises StoreUnavailable."""
        try:
            client = await self._connected()
            result = await client.query(sql, parameters=parameters or {}, query_tz="UTC")
        except UNREACHABLE as error:
            raise StoreUnavailable(_describe(error)) from error
        return [tuple(row) for row in result.result_rows]

    async def insert(self, table: str, columns: Mapping[str, Sequence[Any]], token: str) -> None:
        """Insert columns of equal length as one block; a repeat with the same token changes nothing.

        `table`, `columns`: of controlplane.audit.columns.TABLES. Returns once ClickHouse has acknowledged it. Raises
        StoreUnavailable: its fate is then unknown.
        """
        packed = columns if isinstance(columns, Packed) else await pack(table, columns)
        body = packed.body
        try:
            client = await self._connected()
            await client.raw_insert(
                table,
                list(columns),
                # Bytes are sent again if the connection had gone stale; of a megabyte of them aiohttp warns.
                body if len(body) < TOO_LARGE_BYTES_BODY else io.BytesIO(body),
                settings={"insert_deduplicate": 1, "insert_deduplication_token": token, "async_insert": 0},
                fmt="Native",
                compression=packed.compression,
            )
        except UNREACHABLE as error:
            raise StoreUnavailable(_describe(error)) from error

    async def migrate(self) -> None:
        """Bring tables and views to this version's schema; every statement may be repeated."""
        await self._script("schema.sql")
        steps = {int(row[0]) for row in await self.query("SELECT step FROM ringfence.schema_steps")}
        for step, migrate in MIGRATIONS.items():
            if step not in steps:
                await migrate(self.query)
                # Last: a migration that was cut off is begun again.
                await self.query(f"INSERT INTO ringfence.schema_steps (step) SELECT {step}")
        await self._script("views.sql")

    async def _script(self, name: str) -> None:
        script = resources.files("controlplane.audit").joinpath(name).read_text()
        try:
            client = await self._connected()
            for statement in statements(script):
                await client.command(statement)
        except UNREACHABLE as error:
            raise StoreUnavailable(_describe(error)) from error

    async def ping(self) -> bool:
        """Whether it answers."""
        try:
            return bool(await (await self._connected()).ping())
        except UNREACHABLE:
            return False

    async def renew(self, access: ClickHouseAccess) -> bool:
        """Sign in with this from the next call on; whether it is news. Calls under way end as they may."""
        if access == self._access and access.tls is None:
            return False  # with TLS the files may be new
        async with self._connecting:
            self._access = access
            client, self._client = self._client, None
        if client is not None:
            await client.close()
        return True

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            if self._client is None:
                self._client = await clickhouse_connect.get_async_client(
                    host=self._access.host,
                    port=self._access.port,
                    username=self._access.user,
                    password=self._access.password,
                    # A session would allow one query at a time; nothing here needs one.
                    autogenerate_session_id=False,
                    connect_timeout=5,
                    send_receive_timeout=QUERY_TIMEOUT_S,
                    **_tls(self._access),
                )
            return self._client


def _tls(access: ClickHouseAccess) -> dict[str, Any]:
    """The client's arguments for HTTPS."""
    files = access.tls
    if files is None:
        return {"interface": "http"}
    return {
        "interface": "https",
        "ca_cert": files.ca_file or None,
        "client_cert": files.cert_file or None,
        "client_cert_key": files.key_file or None,
        # Without it a client certificate would replace user and password.
        "tls_mode": "strict",
        "server_host_name": files.server_name or None,
    }


def statements(script: str) -> list[str]:
    """The statements of a script: separated by ';' at a line's end, lines of comment left out."""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    return [text for part in "\n".join(lines).split(";\n") if (text := part.strip().removesuffix(";"))]


def _describe(error: BaseException) -> str:
    """The first line of what went wrong. ClickHouse's errors quote statements, which hold no secrets here."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else 'no answer'}"
