"""Handlers of /v1/keys."""

from msgspec import UNSET
from msgspec.structs import asdict

from controlplane.api.answers import NO_CONTENT, Answer
from controlplane.api.call import ALL, ISSUERS, Call, Route, Service
from controlplane.api.pages import Place, decode_cursor, take_page
from controlplane.commands import key_changes, key_stops, keys
from controlplane.commands.base import CommandRefusal
from events.state.keys import Key
from schemas.answers import KeyIssuedAnswer, KeyView, ListAnswer, RevokedAnswer
from schemas.api import KeyIssue, KeyPatch, Reasoned, RevokeMany
from schemas.queries import KeysQuery, NoQuery, ReasonQuery


async def issue(service: Service, call: Call) -> Answer | CommandRefusal:
    body: KeyIssue = call.body

    async def make() -> Answer | CommandRefusal:
        issued = await service.execute(call, keys.issue(body, service.key_rules))
        key = key_stops.key_of(service.leader.state, issued.id)
        if isinstance(key, CommandRefusal):
            return key
        view = service.views().key(key)
        answer = KeyIssuedAnswer(**asdict(view), token=issued.token, vault_key=issued.token)
        return Answer(answer, 201, headers={"Location": f"/v1/keys/{issued.id}"})

    if call.idempotency_key is None:
        return await make()
    operator = call.operator.id if call.operator else ""
    return await service.replays.once(operator, call.idempotency_key, call.raw_body, make)


async def list_keys(service: Service, call: Call) -> Answer | CommandRefusal:
    query: KeysQuery = call.query
    after = decode_cursor(query.cursor)
    if isinstance(after, CommandRefusal):
        return after
    views = service.views()

    def fits(key: Key) -> bool:
        return (
            (query.agent is UNSET or key.agent == query.agent)
            and (query.label is UNSET or key.label == query.label)
            and (query.run is UNSET or key.metadata.get("run_id") == query.run)
            and (query.state is UNSET or views.key_state(key) == query.state)
        )

    found, cursor = await take_page(service.leader.state.keys.values(), _place, fits, query.limit, after)
    views = service.views()
    return Answer(ListAnswer([views.key(key) for key in found], cursor))


async def show(service: Service, call: Call) -> Answer | CommandRefusal:
    return _shown(service, call.params["id"])


async def change(service: Service, call: Call) -> Answer | CommandRefusal:
    body: KeyPatch = call.body
    return _shown(service, await service.execute(call, key_changes.change(call.params["id"], body, service.key_rules)))


async def suspend(service: Service, call: Call) -> Answer | CommandRefusal:
    return _shown(service, await service.execute(call, key_stops.suspend(call.params["id"])))


async def resume(service: Service, call: Call) -> Answer | CommandRefusal:
    return _shown(service, await service.execute(call, key_stops.resume(call.params["id"])))


async def revoke(service: Service, call: Call) -> Answer | CommandRefusal:
    await service.execute(call, key_stops.revoke(call.params["id"]))
    return NO_CONTENT


async def revoke_many(service: Service, call: Call) -> Answer | CommandRefusal:
    """As many decisions as it takes: one log message holds only so many events."""
    body: RevokeMany = call.body
    revoked = 0
    more = True
    while more:
        done = await service.execute(call, key_stops.revoke_many(body))
        revoked += done.revoked
        more = done.more
    return Answer(RevokedAnswer(revoked, body.dry_run))


def _shown(service: Service, key_id: str) -> Answer | CommandRefusal:
    key = key_stops.key_of(service.leader.state, key_id)
    return key if isinstance(key, CommandRefusal) else Answer(service.views().key(key))


def _place(key: Key) -> Place:
    return Place(key.issued_seq, key.id)


ROUTES = (
    Route(
        "POST", "/v1/keys", issue, ISSUERS, "Issue a vault key; its token is in this answer only",
        body=KeyIssue, answer=KeyIssuedAnswer, status=201, idempotent=True,
    ),
    Route("GET", "/v1/keys", list_keys, ALL, "List vault keys", query=KeysQuery, answer=ListAnswer[KeyView]),
    Route(
        "POST", "/v1/keys/revoke", revoke_many, ISSUERS, "Revoke every key of an agent, team, run, label or upstream",
        body=RevokeMany, answer=RevokedAnswer,
    ),
    Route("GET", "/v1/keys/{id}", show, ALL, "Show a key with its spend", query=NoQuery, answer=KeyView),
    Route("PATCH", "/v1/keys/{id}", change, ISSUERS, "Change a key", body=KeyPatch, answer=KeyView),
    Route(
        "POST", "/v1/keys/{id}/suspend", suspend, ISSUERS, "Suspend a key",
        body=Reasoned, body_optional=True, answer=KeyView,
    ),
    Route(
        "POST", "/v1/keys/{id}/resume", resume, ISSUERS, "Resume a suspended key",
        body=Reasoned, body_optional=True, answer=KeyView,
    ),
    Route(
        "DELETE", "/v1/keys/{id}", revoke, ISSUERS, "Revoke a key by its id, or one token of it by that token",
        query=ReasonQuery, status=204,
    ),
)  # fmt: skip
