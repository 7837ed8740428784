-- The views that readers see. Every statement may be repeated.

CREATE OR REPLACE VIEW ringfence.requests DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    request_id, at, agent, owner, purpose, cost_center, key, label, run, user, feature, client, upstream, operation,
    method, path, model, status, outcome, refusal, message, refused_count, bound_usd, actual_usd, refund_usd,
    overrun_usd, held_usd, input_tokens, output_tokens, cached_tokens, tool_calls, latency_us, overhead_us
FROM ringfence.request_rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

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
