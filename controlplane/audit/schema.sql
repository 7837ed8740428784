-- The audit's tables and views, one statement after another. Every statement may be repeated.
--
-- `events` is immutable: one row per event of both logs, but for signs of life (Heartbeat, Marked, LogMarked),
-- in the place that the log gave it (log, seq, idx). Everything else is a view of it, so that there is nothing
-- to keep in step: one set of numbers.

CREATE DATABASE IF NOT EXISTS ringfence;

-- Which span of a log a block holds, recorded before the block is inserted. A writer that was killed inserts the
-- last span again, row for row the same, under the same token, and ClickHouse drops what it already has.
CREATE TABLE IF NOT EXISTS ringfence.blocks
(
    log        LowCardinality(String),
    from_seq   UInt64,
    to_seq     UInt64,
    written_at DateTime64(3) DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (log, from_seq)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS ringfence.events
(
    log           LowCardinality(String) COMMENT 'control or nodes',
    seq           UInt64 COMMENT 'sequence of the message in its stream',
    idx           UInt32 COMMENT 'place of the event in the message',
    actor         LowCardinality(String) COMMENT 'whose log: an incarnation of a node, or a control plane',
    n             UInt64 COMMENT 'number of the message in that log',
    at            DateTime64(9) COMMENT 'when it happened, by the clock of who recorded it',
    stored_at     DateTime64(9) COMMENT 'when the log stored it',
    type          LowCardinality(String) COMMENT 'name of the event, without its version',
    request_id    String,
    key           String,
    label         String,
    agent         LowCardinality(String),
    owner         LowCardinality(String) COMMENT 'the team',
    purpose       LowCardinality(String),
    cost_center   LowCardinality(String),
    run           String,
    user          String,
    feature       LowCardinality(String),
    client        String COMMENT 'address of the caller',
    upstream      LowCardinality(String),
    operation     LowCardinality(String),
    method        LowCardinality(String),
    path          String,
    model         LowCardinality(String),
    status        UInt16 COMMENT 'HTTP status of the answer or refusal',
    outcome       LowCardinality(String),
    refusal       LowCardinality(String),
    message       String,
    line          String COMMENT 'the account, meter and window that did not fit',
    count         UInt64 COMMENT 'how many requests a refusal stands for',
    bound_usd     Decimal(18, 9),
    actual_usd    Decimal(18, 9) COMMENT 'what was counted; for objects the difference to what had been',
    refund_usd    Decimal(18, 9),
    object        String COMMENT 'reference of the vendor object that was settled',
    exposure_usd  Decimal(18, 9) COMMENT 'what that object has moved or may still move',
    meter         LowCardinality(String) COMMENT 'the meter of the object',
    idempotency   String COMMENT 'digest of the idempotency key of an admitted request, equal for repeats of one call',
    resolves      String COMMENT 'such a digest: the answer was replayed, and tells what other attempts under it did',
    input_tokens  UInt64,
    output_tokens UInt64,
    cached_tokens UInt64,
    tool_calls    UInt32,
    latency_us    UInt64,
    overhead_us   UInt64,
    subject       String COMMENT 'what a control event changed, or which actor was fenced',
    operator      String,
    operator_name String,
    address       String,
    reason        String,
    data          String COMMENT 'the event as JSON, without digests of tokens',
    INDEX by_request request_id TYPE bloom_filter GRANULARITY 4,
    INDEX by_idempotency idempotency TYPE bloom_filter GRANULARITY 4,
    INDEX by_object object TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(stored_at)
ORDER BY (log, seq, idx)
TTL toDateTime(stored_at) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per request (and per coalesced refusal), merged from its events.
CREATE OR REPLACE VIEW ringfence.requests DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
WITH
    -- An answer replayed later for the same idempotency key told what it did; its cost stands there. Within a day
    -- only: then vendors may forget the key, and the answer may be another execution's.
    e.request_id IN (
        SELECT a.request_id
        FROM ringfence.events AS a
        INNER JOIN (SELECT resolves, request_id, seq, idx, at FROM ringfence.events WHERE resolves != '') AS s
            ON a.idempotency = s.resolves
        WHERE a.idempotency IN (SELECT resolves FROM ringfence.events WHERE resolves != '')
            AND a.request_id != s.request_id AND (s.seq, s.idx) > (a.seq, a.idx) AND s.at <= a.at + INTERVAL 24 HOUR
    ) AS told_by_another,
    countIf(e.type = 'RequestSettled' AND e.outcome = 'settled') = 0 AND countIf(e.type = 'RequestReleased') = 0
        AND NOT told_by_another AND countIf(e.type = 'RequestReconciled') > 0 AS by_operator
SELECT
    e.request_id AS request_id,
    minIf(e.at, e.type IN ('RequestAdmitted', 'RequestRefused')) AS at,
    anyIf(e.agent, e.type IN ('RequestAdmitted', 'RequestRefused')) AS agent,
    anyIf(e.owner, e.type IN ('RequestAdmitted', 'RequestRefused')) AS owner,
    anyIf(e.purpose, e.type IN ('RequestAdmitted', 'RequestRefused')) AS purpose,
    anyIf(e.cost_center, e.type IN ('RequestAdmitted', 'RequestRefused')) AS cost_center,
    anyIf(e.key, e.type IN ('RequestAdmitted', 'RequestRefused')) AS key,
    anyIf(e.label, e.type IN ('RequestAdmitted', 'RequestRefused')) AS label,
    anyIf(e.run, e.type IN ('RequestAdmitted', 'RequestRefused')) AS run,
    anyIf(e.user, e.type IN ('RequestAdmitted', 'RequestRefused')) AS user,
    anyIf(e.feature, e.type IN ('RequestAdmitted', 'RequestRefused')) AS feature,
    anyIf(e.client, e.type IN ('RequestAdmitted', 'RequestRefused')) AS client,
    anyIf(e.upstream, e.type IN ('RequestAdmitted', 'RequestRefused')) AS upstream,
    anyIf(e.operation, e.type IN ('RequestAdmitted', 'RequestRefused')) AS operation,
    anyIf(e.method, e.type IN ('RequestAdmitted', 'RequestRefused')) AS method,
    anyIf(e.path, e.type IN ('RequestAdmitted', 'RequestRefused')) AS path,
    if(anyIf(e.model, e.type = 'RequestSettled') != '', anyIf(e.model, e.type = 'RequestSettled'), max(e.model)) AS model,
    max(e.status) AS status,
    multiIf(
        countIf(e.type = 'RequestRefused') > 0, 'refused',
        -- The node's own word comes first, as in the ledger: an operator's figure stands only until it comes.
        countIf(e.type = 'RequestSettled' AND e.outcome = 'settled') > 0, 'settled',
        countIf(e.type = 'RequestReleased') > 0, 'released',
        countIf(e.type IN ('RequestSettled', 'RequestReconciled')) = 0
            AND anyIf(e.actor, e.type = 'RequestAdmitted') NOT IN (SELECT subject FROM ringfence.events WHERE type = 'Fenced'), 'open',
        told_by_another, 'settled',
        countIf(e.type = 'RequestReconciled') > 0, 'settled',
        'unknown'
    ) AS outcome,
    max(e.refusal) AS refusal,
    anyIf(e.message, e.type = 'RequestRefused') AS message,
    maxIf(e.count, e.type = 'RequestRefused') AS refused_count,
    maxIf(e.bound_usd, e.type IN ('RequestAdmitted', 'RequestRefused')) AS bound_usd,
    -- The first settlement counts (a re-joined node may tell it again), or else the operator's last figure.
    if(by_operator, argMaxIf(e.actual_usd, (e.seq, e.idx), e.type = 'RequestReconciled'),
       argMinIf(e.actual_usd, (e.seq, e.idx), e.type = 'RequestSettled' AND e.outcome = 'settled')) AS actual_usd,
    if(by_operator, argMaxIf(e.refund_usd, (e.seq, e.idx), e.type = 'RequestReconciled'),
       argMinIf(e.refund_usd, (e.seq, e.idx), e.type = 'RequestSettled' AND e.outcome = 'settled')) AS refund_usd,
    if(outcome = 'settled', greatest(actual_usd - bound_usd, toDecimal64(0, 9)), toDecimal64(0, 9)) AS overrun_usd,
    if(outcome IN ('open', 'unknown'), bound_usd, toDecimal64(0, 9)) AS held_usd,
    argMinIf(e.input_tokens, (e.seq, e.idx), e.type = 'RequestSettled') AS input_tokens,
    argMinIf(e.output_tokens, (e.seq, e.idx), e.type = 'RequestSettled') AS output_tokens,
    argMinIf(e.cached_tokens, (e.seq, e.idx), e.type = 'RequestSettled') AS cached_tokens,
    argMinIf(e.tool_calls, (e.seq, e.idx), e.type = 'RequestSettled') AS tool_calls,
    argMinIf(e.latency_us, (e.seq, e.idx), e.type = 'RequestSettled') AS latency_us,
    argMinIf(e.overhead_us, (e.seq, e.idx), e.type = 'RequestSettled') AS overhead_us
FROM ringfence.events AS e
WHERE e.request_id != ''
GROUP BY e.request_id
HAVING countIf(e.type IN ('RequestAdmitted', 'RequestRefused')) > 0;

CREATE OR REPLACE VIEW ringfence.spend_hourly DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    toStartOfHour(r.at) AS hour, agent, owner, purpose, cost_center, key, upstream, model,
    countIf(r.outcome != 'refused') AS admitted,
    countIf(r.outcome = 'settled') AS settled,
    countIf(r.outcome = 'unknown') AS unknown,
    sum(r.refused_count) AS refused,
    sum(r.actual_usd) AS settled_usd,
    sum(r.held_usd) AS held_usd,
    sum(r.overrun_usd) AS overrun_usd,
    sum(r.input_tokens) AS input_tokens,
    sum(r.output_tokens) AS output_tokens
FROM ringfence.requests AS r
GROUP BY hour, agent, owner, purpose, cost_center, key, upstream, model;

CREATE OR REPLACE VIEW ringfence.spend_daily DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    toDate(h.hour) AS day, agent, owner, purpose, cost_center, key, upstream, model,
    sum(h.admitted) AS admitted,
    sum(h.settled) AS settled,
    sum(h.unknown) AS unknown,
    sum(h.refused) AS refused,
    sum(h.settled_usd) AS settled_usd,
    sum(h.held_usd) AS held_usd,
    sum(h.overrun_usd) AS overrun_usd,
    sum(h.input_tokens) AS input_tokens,
    sum(h.output_tokens) AS output_tokens
FROM ringfence.spend_hourly AS h
GROUP BY day, agent, owner, purpose, cost_center, key, upstream, model;

CREATE OR REPLACE VIEW ringfence.refusals DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT at, request_id, refusal, message, status, agent, owner, key, label, run, upstream, method, path, model, client,
       line, count, bound_usd
FROM ringfence.events
WHERE type = 'RequestRefused';

CREATE OR REPLACE VIEW ringfence.unknown_outcomes DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT at, request_id, agent, owner, key, label, run, upstream, operation, method, path, model, status, bound_usd
FROM ringfence.requests
WHERE outcome = 'unknown';

CREATE OR REPLACE VIEW ringfence.control_changes DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT at, seq, idx, type AS event, subject, operator, operator_name, address, reason, data AS details
FROM ringfence.events
WHERE log = 'control' AND type NOT IN ('LeaseGranted', 'LeaderStarted', 'NodeJoined', 'NodeFenced', 'FenceOpened', 'Fenced');
