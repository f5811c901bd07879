-- A row of the audit is its entry as a text, and all other columns are made of that when somebody asks for them: to write
-- 32 columns and six indexes cost a gateway more than the call that a row is about. `api_analytics` shows what it showed,
-- with names, types and order of 0007. It is a view and no table with generated columns, because SQLite makes those
-- whenever a row is written, whether they are stored or not.

CREATE TABLE api_analytics_entries (
    id        integer PRIMARY KEY,
    timestamp text NOT NULL,
    entry_id  text, -- what makes a row that is written again no second one
    entry     text NOT NULL
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
CREATE INDEX idx_api_analytics_timestamp ON api_analytics_entries (timestamp);
CREATE UNIQUE INDEX api_analytics_entry ON api_analytics_entries (entry_id);

CREATE VIEW api_analytics AS SELECT
    id,
    timestamp,
    CAST(substr(entry ->> 'email', 1, 255) AS text) AS user_email,
    CAST(substr(entry ->> 'method', 1, 10) AS text) AS method,
    CAST(substr(entry ->> 'endpoint', 1, 512) AS text) AS endpoint,
    CAST(nullif(entry ->> 'status', 0) AS integer) AS status_code,
    CAST(coalesce(entry ->> 'response_time_ms',
        min(((entry ->> 'gateway_micros') + (entry ->> 'upstream_micros') + 500) / 1000, 2147483647)) AS integer) AS response_time_ms,
    CAST(entry ->> 'user_agent' AS text) AS user_agent,
    CAST(entry ->> 'client' AS text) AS client_ip,
    entry_id,
    CAST(entry ->> 'request_id' AS text) AS request_id,
    CAST(entry ->> 'call' AS integer) AS call,
    CAST(entry ->> 'caller' AS text) AS caller,
    CAST(entry ->> 'directory' AS text) AS directory,
    CAST(entry ->> 'scheme' AS text) AS scheme,
    CAST(entry ->> 'grant' AS text) AS granted_by,
    CAST(entry ->> 'tenant' AS text) AS tenant,
    CAST(entry ->> 'route' AS text) AS route,
    CAST(entry ->> 'rpc_method' AS text) AS rpc_method,
    CAST(entry ->> 'server' AS text) AS server,
    CAST(entry ->> 'tool' AS text) AS tool,
    CAST(entry ->> 'outcome' AS text) AS outcome,
    CAST(entry ->> 'code' AS text) AS code,
    CAST(entry ->> 'reason' AS text) AS reason,
    CAST(coalesce(entry ->> 'gateway_ms', (entry ->> 'gateway_micros') / 1000.0) AS real) AS gateway_ms,
    CAST(coalesce(entry ->> 'upstream_ms', (entry ->> 'upstream_micros') / 1000.0) AS real) AS upstream_ms,
    CAST(entry ->> 'request_bytes' AS integer) AS request_bytes,
    CAST(entry ->> 'response_bytes' AS integer) AS response_bytes,
    CAST(entry ->> 'retries' AS integer) AS retries,
    CAST(entry ->> 'argument_digest' AS text) AS argument_digest,
    CAST(entry ->> 'arguments' AS text) AS arguments,
    CAST(entry ->> 'trace_id' AS text) AS trace_id,
    CAST(entry ->> 'instance' AS text) AS instance
FROM api_analytics_entries;

-- Somebody is forgotten by what they are called.
CREATE TRIGGER api_analytics_delete INSTEAD OF DELETE ON api_analytics
BEGIN
    DELETE FROM api_analytics_entries WHERE id = OLD.id;
END;
