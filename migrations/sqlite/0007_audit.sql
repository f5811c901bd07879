-- One row for each call that was answered, as in Postgres. A time is text in UTC, `2026-11-30T10:00:00.000000Z`, which
-- sorts as it should.

CREATE TABLE api_analytics (
    id               integer PRIMARY KEY,
    timestamp        text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z')),
    user_email       text,
    method           text,
    endpoint         text,
    status_code      integer,
    response_time_ms integer,
    user_agent       text,
    client_ip        text,
    entry_id         text, -- what makes a row that is written again no second one
    request_id       text,
    call             integer,
    caller           text,
    directory        text,
    scheme           text,
    granted_by       text,
    tenant           text,
    route            text,
    rpc_method       text,
    server           text,
    tool             text,
    outcome          text,
    code             text,
    reason           text,
    gateway_ms       real,
    upstream_ms      real,
    request_bytes    integer,
    response_bytes   integer,
    retries          integer,
    argument_digest  text,
    arguments        text,
    trace_id         text,
    instance         text
);
CREATE INDEX idx_api_analytics_timestamp ON api_analytics (timestamp);
CREATE INDEX idx_api_analytics_user ON api_analytics (user_email);
CREATE INDEX idx_api_analytics_endpoint ON api_analytics (endpoint);
CREATE UNIQUE INDEX api_analytics_entry ON api_analytics (entry_id);
CREATE INDEX api_analytics_caller ON api_analytics (lower(coalesce(caller, user_email)));
CREATE INDEX api_analytics_request ON api_analytics (request_id);
