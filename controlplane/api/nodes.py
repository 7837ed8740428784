"""Handlers of /v1/nodes and of the probes: who is up, and is this process."""

from msgspec import UNSET

from controlplane.api.answers import Answer
from controlplane.api.call import ALL, PUBLIC, Call, Route, Service
from controlplane.api.pages import Place, decode_cursor, take_page
from controlplane.api.ports import NodeStatus
from controlplane.commands.base import CommandRefusal
from events.state.nodes import Node
from schemas.answers import HealthAnswer, ListAnswer, NodeState, NodeView, ReadyAnswer
from schemas.durations import format_time
from schemas.queries import NodesQuery, ReadyQuery
from schemas.readiness import as_text, render_reasons

TEXT_TYPE = "text/plain; charset=utf-8"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def list_nodes(service: Service, call: Call) -> Answer | CommandRefusal:
    query: NodesQuery = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after
    statuses = service.node_statuses()
    silent_ms = service.settings.timing.proof_ttl_ms

    def state_of(node: Node) -> NodeState:
        return node_state(node, statuses.get(node.incarnation), silent_ms)

    def fits(node: Node) -> bool:
        return query.state is UNSET or state_of(node) == query.state

    found, cursor = await take_page(
        service.leader.state.nodes.values(), lambda node: Place(node.joined_seq, node.incarnation), fits,
        query.limit, after,
    )  # fmt: skip
    head = service.leader.state.seq
    shown = [_view(node, statuses.get(node.incarnation), state_of(node), head) for node in found]
    return Answer(ListAnswer(shown, cursor))


def node_state(node: Node, status: NodeStatus | None, silent_ms: int) -> NodeState:
    """`stopped` drained by itself; `fenced` was ended; `silent` could not act now, its proof is too old."""
    if node.fence_reason == "stopped" or (status is not None and status.stopped):
        return "stopped"
    if node.fenced_seq or (status is not None and status.fenced):
        return "fenced"
    return "live" if status is not None and status.silent_ms <= silent_ms else "silent"


def _view(node: Node, status: NodeStatus | None, state: NodeState, head: int) -> NodeView:
    return NodeView(
        slot=node.slot,
        incarnation=node.incarnation,
        state=state,
        joined_at=format_time(node.joined_at_ns),
        applied=status.applied if status is not None else None,
        head=head,
        silent_ms=status.silent_ms if status is not None else None,
        pid=node.pid,
        version=node.version,
        fence_reason=node.fence_reason or None,
    )


async def healthz(_: Service, __: Call) -> Answer | CommandRefusal:
    """The process answers; nothing else is claimed."""
    return Answer(HealthAnswer("ok"))


async def readyz(service: Service, call: Call) -> Answer | CommandRefusal:
    query: ReadyQuery = call.query
    answer = render_reasons(service.readiness(), service.role())
    status = 200 if answer.ready else 503
    if query.view == "text":
        return Answer(as_text(answer), status, TEXT_TYPE)
    return Answer(answer, status)


async def metrics(service: Service, _: Call) -> Answer | CommandRefusal:
    return Answer(service.metrics(), content_type=METRICS_TYPE)


ROUTES = (
    Route("GET", "/v1/nodes", list_nodes, ALL, "List proxy nodes", query=NodesQuery, answer=ListAnswer[NodeView]),
    Route("GET", "/healthz", healthz, PUBLIC, "Whether the process answers", answer=HealthAnswer),
    Route(
        "GET", "/readyz", readyz, PUBLIC, "Whether it can do its work, and what is missing",
        query=ReadyQuery, answer=ReadyAnswer,
    ),
    Route("GET", "/metrics", metrics, PUBLIC, "Metrics in the Prometheus text format"),
)  # fmt: skip
