-- A row of the audit is its entry as a text, and all other columns are made of that when somebody asks for them: to write
-- 32 columns and six indexes cost a gateway more than the call that a row is about. The columns are those of 0007, with
-- their names, types and order, and `entry` after them.

CREATE TABLE api_analytics_entries (
    id               integer PRIMARY KEY,
    timestamp        text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z')),
    user_email       text    AS (substr(entry ->> 'email', 1, 255)),
    method           text    AS (substr(entry ->> 'method', 1, 10)),
    endpoint         text    AS (substr(entry ->> 'endpoint', 1, 512)),
    status_code      integer AS (nullif(entry ->> 'status', 0)),
    response_time_ms integer AS (coalesce(entry ->> 'response_time_ms',
        min(((entry ->> 'gateway_micros') + (entry ->> 'upstream_micros') + 500) / 1000, 2147483647))),
    user_agent       text    AS (entry ->> 'user_agent'),
    client_ip        text    AS (entry ->> 'client'),
    entry_id         text, -- what makes a row that is written again no second one
    request_id       text    AS (entry ->> 'request_id'),
    call             integer AS (entry ->> 'call'),
    caller           text    AS (entry ->> 'caller'),
    directory        text    AS (entry ->> 'directory'),
    scheme           text    AS (entry ->> 'scheme'),
    granted_by       text    AS (entry ->> 'grant'),
    tenant           text    AS (entry ->> 'tenant'),
    route            text    AS (entry ->> 'route'),
    rpc_method       text    AS (entry ->> 'rpc_method'),
    server           text    AS (entry ->> 'server'),
    tool             text    AS (entry ->> 'tool'),
    outcome          text    AS (entry ->> 'outcome'),
    code             text    AS (entry ->> 'code'),
    reason           text    AS (entry ->> 'reason'),
    gateway_ms       real    AS (coalesce(entry ->> 'gateway_ms', (entry ->> 'gateway_micros') / 1000.0)),
    upstream_ms      real    AS (coalesce(entry ->> 'upstream_ms', (entry ->> 'upstream_micros') / 1000.0)),
    request_bytes    integer AS (entry ->> 'request_bytes'),
    response_bytes   integer AS (entry ->> 'response_bytes'),
    retries          integer AS (entry ->> 'retries'),
    argument_digest  text    AS (entry ->> 'argument_digest'),
    arguments        text    AS (entry ->> 'arguments'),
    trace_id         text    AS (entry ->> 'trace_id'),
    instance         text    AS (entry ->> 'instance'),
    entry            text NOT NULL DEFAULT '{}'
);

-- Rows of 0007 say in milliseconds what ours say in microseconds. Of what there is none, nothing is said.
INSERT INTO api_analytics_entries (id, timestamp, entry_id, entry)
SELECT id, timestamp, entry_id, json_patch('{}', json_object(
    'email', user_email, 'method', method, 'endpoint', endpoint, 'status', status_code,
    'response_time_ms', response_time_ms, 'user_agent', user_agent, 'client', client_ip, 'request_id', request_id,
    'call', call, 'caller', caller, 'directory', directory, 'scheme', scheme, 'grant', granted_by, 'tenant', tenant,
    'route', route, 'rpc_method', rpc_method, 'server', server, 'tool', tool, 'outcome', outcome, 'code', code,
    'reason', reason, 'gateway_ms', gateway_ms, 'upstream_ms', upstream_ms, 'request_bytes', request_bytes,
    'response_bytes', response_bytes, 'retries', retries, 'argument_digest', argument_digest, 'arguments', arguments,
    'trace_id', trace_id, 'instance', instance))
FROM api_analytics;

DROP TABLE api_analytics;
ALTER TABLE api_analytics_entries RENAME TO api_analytics;

CREATE INDEX idx_api_analytics_timestamp ON api_analytics (timestamp);
CREATE UNIQUE INDEX api_analytics_entry ON api_analytics (entry_id);
