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

-- A part in one file. With a file for each column an insert of 16,000 rows takes ten times the memory, a buffer for each
-- file, and four times the processor time, a sync for each.
ALTER TABLE ringfence.events MODIFY SETTING min_bytes_for_wide_part = 134217728;

-- Of `events`, the rare ones that change what other requests' rows mean: fences, replayed answers, operators' figures.
-- At hand here, because a search of all events for them would take longer than everything else.
CREATE TABLE IF NOT EXISTS ringfence.turns AS ringfence.events
ENGINE = ReplacingMergeTree
ORDER BY (type, log, seq, idx)
TTL toDateTime(stored_at) + INTERVAL 90 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per request (and per coalesced refusal), merged from its events by merge.sql when one of them is written.
-- Of several rows of one request the highest version counts; `requests` shows that one. By days, so that days without
-- news are one part each and need no comparing (ten million requests are summed up in a quarter of a second).
CREATE TABLE IF NOT EXISTS ringfence.request_rows
(
    request_id    String,
    at            DateTime64(9) COMMENT 'of its first event',
    version       UInt64,
    agent         LowCardinality(String),
    owner         LowCardinality(String),
    purpose       LowCardinality(String),
    cost_center   LowCardinality(String),
    key           String,
    label         String,
    run           String,
    user          String,
    feature       LowCardinality(String),
    client        String,
    upstream      LowCardinality(String),
    operation     LowCardinality(String),
    method        LowCardinality(String),
    path          String,
    model         LowCardinality(String),
    status        UInt16,
    outcome       LowCardinality(String),
    refusal       LowCardinality(String),
    message       String,
    refused_count UInt64,
    bound_usd     Decimal(18, 9),
    actual_usd    Decimal(18, 9),
    refund_usd    Decimal(18, 9),
    overrun_usd   Decimal(18, 9),
    held_usd      Decimal(18, 9),
    input_tokens  UInt64,
    output_tokens UInt64,
    cached_tokens UInt64,
    tool_calls    UInt32,
    latency_us    UInt64,
    overhead_us   UInt64,
    actor         LowCardinality(String) COMMENT 'the incarnation that admitted it',
    idempotency   String,
    INDEX by_request request_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_idempotency idempotency TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_run run TYPE bloom_filter GRANULARITY 1,
    INDEX by_key key TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(at)
ORDER BY (at, request_id)
TTL toDateTime(at) + INTERVAL 90 DAY
SETTINGS min_age_to_force_merge_seconds = 600, min_age_to_force_merge_on_partition_only = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE ringfence.request_rows MODIFY SETTING min_bytes_for_wide_part = 33554432;

-- Through which sequence the requests of a log's events are merged.
CREATE TABLE IF NOT EXISTS ringfence.merges
(
    log    LowCardinality(String),
    to_seq UInt64
)
ENGINE = ReplacingMergeTree(to_seq)
ORDER BY log
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Which steps of migration this directory has taken.
CREATE TABLE IF NOT EXISTS ringfence.schema_steps
(
    step UInt32,
    at   DateTime64(3) DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY step;
