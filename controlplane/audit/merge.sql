-- Merges requests from their events into ringfence.request_rows: one row per request (and per coalesced refusal).
-- `/*events*/` stands for the events of the requests in question, all of them: what knows less must not count. Their
-- `place` is the one in the log.
INSERT INTO ringfence.request_rows (request_id, at, agent, owner, purpose, cost_center, key, label, run, user, feature, client, upstream, operation, method, path, model, status, outcome, refusal, message, refused_count, bound_usd, actual_usd, refund_usd, overrun_usd, held_usd, input_tokens, output_tokens, cached_tokens, tool_calls, latency_us, overhead_us, actor, idempotency, version)
WITH
    -- Who and what: as its first event says, whatever a later attempt says.
    argMinIf(
        (e.at, e.agent, e.owner, e.purpose, e.cost_center, e.key, e.label, e.run, e.user, e.feature, e.client, e.upstream, e.operation, e.method, e.path),
        e.place, e.type IN ('RequestAdmitted', 'RequestRefused')
    ) AS first,
    -- An answer replayed later for the same idempotency key told what it did; its cost stands there. Within a day
    -- only: then vendors may forget the key, and the answer may be another execution's.
    e.request_id IN (
        SELECT a.request_id
        FROM (/*events*/) AS a
        INNER JOIN
            (SELECT resolves, request_id, bitShiftLeft(seq, 20) + idx AS place, at FROM ringfence.turns WHERE type = 'RequestSettled') AS s
            ON a.idempotency = s.resolves
        WHERE a.idempotency != '' AND a.request_id != s.request_id AND s.place > a.place AND s.at <= a.at + INTERVAL 24 HOUR
    ) AS told_by_another,
    countIf(e.type = 'RequestSettled' AND e.outcome = 'settled') = 0 AND countIf(e.type = 'RequestReleased') = 0
        AND NOT told_by_another AND countIf(e.type = 'RequestReconciled') > 0 AS by_operator
SELECT
    e.request_id AS request_id,
    first.1 AS at,
    first.2 AS agent,
    first.3 AS owner,
    first.4 AS purpose,
    first.5 AS cost_center,
    first.6 AS key,
    first.7 AS label,
    first.8 AS run,
    first.9 AS user,
    first.10 AS feature,
    first.11 AS client,
    first.12 AS upstream,
    first.13 AS operation,
    first.14 AS method,
    first.15 AS path,
    if(argMinIf(e.model, e.place, e.type = 'RequestSettled') != '', argMinIf(e.model, e.place, e.type = 'RequestSettled'), max(e.model)) AS model,
    max(e.status) AS status,
    multiIf(
        countIf(e.type = 'RequestRefused') > 0, 'refused',
        -- The node's own word comes first, as in the ledger: an operator's figure stands only until it comes.
        countIf(e.type = 'RequestSettled' AND e.outcome = 'settled') > 0, 'settled',
        countIf(e.type = 'RequestReleased') > 0, 'released',
        countIf(e.type IN ('RequestSettled', 'RequestReconciled')) = 0
            AND actor NOT IN (SELECT subject FROM ringfence.turns WHERE type = 'Fenced'), 'open',
        told_by_another, 'settled',
        countIf(e.type = 'RequestReconciled') > 0, 'settled',
        'unknown'
    ) AS outcome,
    max(e.refusal) AS refusal,
    argMinIf(e.message, e.place, e.type = 'RequestRefused') AS message,
    maxIf(e.count, e.type = 'RequestRefused') AS refused_count,
    maxIf(e.bound_usd, e.type IN ('RequestAdmitted', 'RequestRefused')) AS bound_usd,
    -- The first settlement counts (a re-joined node may tell it again), or else the operator's last figure.
    if(by_operator, argMaxIf(e.actual_usd, e.place, e.type = 'RequestReconciled'),
       argMinIf(e.actual_usd, e.place, e.type = 'RequestSettled' AND e.outcome = 'settled')) AS actual_usd,
    if(by_operator, argMaxIf(e.refund_usd, e.place, e.type = 'RequestReconciled'),
       argMinIf(e.refund_usd, e.place, e.type = 'RequestSettled' AND e.outcome = 'settled')) AS refund_usd,
    if(outcome = 'settled', greatest(actual_usd - bound_usd, toDecimal64(0, 9)), toDecimal64(0, 9)) AS overrun_usd,
    if(outcome IN ('open', 'unknown'), bound_usd, toDecimal64(0, 9)) AS held_usd,
    argMinIf(e.input_tokens, e.place, e.type = 'RequestSettled') AS input_tokens,
    argMinIf(e.output_tokens, e.place, e.type = 'RequestSettled') AS output_tokens,
    argMinIf(e.cached_tokens, e.place, e.type = 'RequestSettled') AS cached_tokens,
    argMinIf(e.tool_calls, e.place, e.type = 'RequestSettled') AS tool_calls,
    argMinIf(e.latency_us, e.place, e.type = 'RequestSettled') AS latency_us,
    argMinIf(e.overhead_us, e.place, e.type = 'RequestSettled') AS overhead_us,
    -- Of the newest attempt: the one that may still be open.
    argMaxIf(e.actor, e.place, e.type = 'RequestAdmitted') AS actor,
    argMinIf(e.idempotency, e.place, e.type = 'RequestAdmitted') AS idempotency,
    -- Grows with each fact that changes a row: of two merges of one request the one that knew more counts.
    toUInt64(count() + told_by_another + (actor IN (SELECT subject FROM ringfence.turns WHERE type = 'Fenced'))) AS version
FROM (/*events*/) AS e
GROUP BY e.request_id
HAVING countIf(e.type IN ('RequestAdmitted', 'RequestRefused')) > 0
-- One thread: two share the work badly, and take an eighth more in all.
SETTINGS max_partitions_per_insert_block = 0, max_threads = 1
