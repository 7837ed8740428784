"""Carrying out one request's statement: which lane, with which rights and bounds, and how its result is sent."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from controlplane.audit import endpoint_protocol as protocol
from controlplane.audit.embedded_answer import Answer, error_answer
from controlplane.audit.embedded_body import Body, Insert, read_statement
from controlplane.audit.endpoint_codecs import Packer, UnpackError
from controlplane.audit.endpoint_errors import ErrorCode, QueryError
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.engine import Engine
from controlplane.audit.engine_config import READER_ROLE
from controlplane.audit.engine_session import EngineError, Session, SessionSpec
from controlplane.audit.insert_statement import first_word
from controlplane.audit.lanes import Lane, LaneBusyError
from controlplane.audit.reader_rules import ReaderRules
from controlplane.audit.roles import DATABASE, Role
from controlplane.audit.statement_run import StatementRun, new_tag, open_run

#: The writer's statements that do not need the one thread that writes.
_READS: Final = frozenset({"CHECK", "DESC", "DESCRIBE", "EXISTS", "EXPLAIN", "SELECT", "SHOW", "WITH"})

#: A result is sent as soon as this much of it is there; smaller ones carry their figures and their exact length.
_FIRST_SEND_BYTES: Final = 262_144

#: With `wait_end_of_query` up to this much is held back, so that a late error can still be told as an error.
_HELD_MAX_BYTES: Final = 16_000_000


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A statement that may run."""

    sql: str
    output_format: str
    streamed: bool


class StatementService:
    """The engine, and the lanes that lead to it."""

    def __init__(self, engine: Engine, limits: EndpointLimits, views: Sequence[str]) -> None:
        self._engine = engine
        self._limits = limits
        self._rules = ReaderRules(frozenset(views), engine.function_names(), limits)
        # A thread for each statement that may be running: ending one must not wait for another to end.
        most = 1 + limits.read_threads + limits.reader_threads
        self._killer = ThreadPoolExecutor(most, thread_name_prefix="chdb-kill")
        self._writes = self._lane("writes", 1)
        self._reads = self._lane("reads", limits.read_threads)
        self._readers = self._lane("readers", limits.reader_threads)

    def _lane(self, name: str, threads: int) -> Lane:
        waiting_max, timeout_s = self._limits.waiting_max, self._limits.waiting_timeout_s
        return Lane(name, threads, waiting_max=waiting_max, waiting_timeout_s=timeout_s)

    @property
    def version(self) -> str:
        """The engine's version."""
        return self._engine.version

    async def close(self) -> None:
        """Wait for the requests that still run, and end the threads and the engine."""
        for lane in (self._writes, self._reads, self._readers):
            await lane.close()
        await asyncio.to_thread(self._killer.shutdown)
        await asyncio.to_thread(self._engine.close)

    async def answer(self, request: web.Request, role: Role, body: Body) -> web.StreamResponse:
        """Run what the request asks, with the rights of `role`."""
        asked = protocol.read_asked(request.headers, [*request.query.items(), *body.fields])
        if isinstance(asked, QueryError):
            return error_answer(asked, self.version)
        answer = Answer(request, asked, self.version)
        try:
            done = await self._carry_out(role, asked, body, answer, readonly=request.method == "GET")
        except LaneBusyError:
            done = QueryError(ErrorCode.TOO_MANY_SIMULTANEOUS_QUERIES, "Too many requests are waiting; try again later")
        except EngineError as error:
            done = error.error
        except UnpackError as error:
            done = QueryError(ErrorCode.CANNOT_DECOMPRESS, str(error))
        except TimeoutError:
            done = QueryError(ErrorCode.TIMEOUT_EXCEEDED, "The query, or taking in its result, lasted too long")
        if isinstance(done, QueryError):
            return await answer.failed(done)
        return done

    async def _carry_out(
        self, role: Role, asked: protocol.Asked, body: Body, answer: Answer, *, readonly: bool
    ) -> web.StreamResponse | QueryError:
        statement = read_statement(asked.query, body, self._limits, may_insert=role is Role.WRITER)
        if isinstance(statement, QueryError):
            return statement
        reads = role is Role.READER or (isinstance(statement, str) and first_word(statement.encode()) in _READS)
        spec = self._spec(role, asked, readonly=readonly, reads=reads)
        if isinstance(spec, QueryError):
            return spec
        if isinstance(statement, Insert):
            return await self._insert(spec, asked, statement, answer)
        if not reads:
            async with open_run(self._engine, self._writes, self._killer, spec) as run:
                return await self._query(run, role, asked, statement, answer, to_its_end=True)
        lane = self._readers if role is Role.READER else self._reads
        async with open_run(self._engine, lane, self._killer, spec) as run:
            # The engine bounds the query; this bounds a client that takes in its result too slowly.
            async with asyncio.timeout(2 * self._limits.read_timeout_s):
                return await self._query(run, role, asked, statement, answer, to_its_end=False)

    def _spec(self, role: Role, asked: protocol.Asked, *, readonly: bool, reads: bool) -> SessionSpec | QueryError:
        limits = self._limits
        bounds = {
            "max_memory_usage": str(limits.read_memory_bytes if reads else limits.write_memory_bytes),
            "max_execution_time": str(limits.read_timeout_s if reads else limits.write_timeout_s),
        }
        if reads:
            spill_bytes = str(limits.read_memory_bytes // 4)
            bounds |= {
                "max_result_bytes": str(limits.streamed_result_max_bytes),
                "max_bytes_before_external_group_by": spill_bytes,
                "max_bytes_before_external_sort": spill_bytes,
                # Spilling goes by blocks: with blocks of 64,000 rows a query is over its limit before it spills.
                "max_block_size": "8192",
            }
        if role is Role.WRITER:
            settings = {**bounds, **asked.settings}
            return SessionSpec(tag=new_tag(), role=None, database=asked.database, readonly=readonly, settings=settings)
        if asked.database not in {None, "default", DATABASE}:
            return QueryError(ErrorCode.ACCESS_DENIED, f"Readers have the database {DATABASE} only")
        checks = (self._rules.check_setting(name, value) for name, value in asked.settings.items())
        refused = next((error for error in checks if error), None)
        settings = {"max_threads": "1", **bounds, **asked.settings}
        return refused or SessionSpec(
            tag=new_tag(), role=READER_ROLE, database=DATABASE, readonly=True, settings=settings
        )

    async def _insert(
        self, spec: SessionSpec, asked: protocol.Asked, insert: Insert, answer: Answer
    ) -> web.StreamResponse | QueryError:
        if asked.params:
            return QueryError(ErrorCode.NOT_IMPLEMENTED, "An INSERT with data cannot have parameters here")
        split = insert.split

        def work(session: Session) -> None:
            session.insert(split.statement, split.input_format, insert.data)

        async with open_run(self._engine, self._writes, self._killer, spec) as run:
            await run.call(work, to_its_end=True)
            return answer.whole(asked.default_format, [], run.figures)

    async def _query(
        self, run: StatementRun, role: Role, asked: protocol.Asked, text: str, answer: Answer, *, to_its_end: bool
    ) -> web.StreamResponse | QueryError:
        prepared = await run.call(partial(self._prepare, role, asked, text))
        if isinstance(prepared, QueryError):
            return prepared
        if prepared.streamed:
            return await self._stream(run, prepared, asked, answer)

        def work(session: Session) -> bytes:
            return _packed(answer.packer, session.run(prepared.sql, prepared.output_format, asked.params))

        body = await run.call(work, to_its_end=to_its_end)
        return answer.whole(prepared.output_format, [body], run.figures)

    def _prepare(self, role: Role, asked: protocol.Asked, text: str, session: Session) -> _Prepared | QueryError:
        """Read the statement, judge it, and start it if its result comes in blocks. Blocks."""
        canonical = session.canonical(text)
        tree = session.tree(canonical)
        output_format = protocol.output_format(canonical, tree, asked.default_format)
        if role is Role.READER:
            refused = self._rules.check_statement(canonical, tree, asked.params)
            refused = refused or self._rules.check_format(output_format)
        else:
            refused = protocol.session_only(canonical)
        if refused:
            return refused
        # A reader's statement runs as the text that was judged. The writer's runs as it came.
        sql = canonical if role is Role.READER else text
        selects = tree is not None and tree.get("type") == "SelectWithUnionQuery"
        streamed = selects and protocol.is_streamed(output_format)
        if streamed:
            session.start(sql, output_format, asked.params)
        elif selects:
            session.cap_result(_result_cap(asked, self._limits.buffered_result_max_bytes))
        return _Prepared(sql, output_format, streamed)

    async def _stream(
        self, run: StatementRun, prepared: _Prepared, asked: protocol.Asked, answer: Answer
    ) -> web.StreamResponse:
        def pull(session: Session) -> bytes | None:
            block = session.next_block()
            return None if block is None else _packed(answer.packer, block)

        held: list[bytes] = []
        hold_bytes = _HELD_MAX_BYTES if asked.wait_end else _FIRST_SEND_BYTES
        while sum(map(len, held)) < hold_bytes:
            block = await run.call(pull)
            if block is None:
                return answer.whole(prepared.output_format, held, run.figures)
            held.append(block)
        await answer.begin(prepared.output_format, held)
        while (block := await run.call(pull)) is not None:
            await answer.write(block)
        return await answer.end()


def _packed(packer: Packer, block: bytes) -> bytes:
    return packer.pack(block) if block else b""


def _result_cap(asked: protocol.Asked, most_bytes: int) -> int:
    try:
        given = int(asked.settings.get("max_result_bytes", "0"))
    except ValueError:
        given = 0
    return min(given, most_bytes) if given > 0 else most_bytes
