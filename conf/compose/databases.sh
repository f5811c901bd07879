#!/bin/bash
# Two databases with an owner each; the gateway may read who Open WebUI's users are, and nothing else of its.
set -euo pipefail

psql --username postgres --set ON_ERROR_STOP=1 --set openwebui="$OPENWEBUI_PASSWORD" --set portcullis="$PORTCULLIS_PASSWORD" <<'SQL'
CREATE ROLE openwebui LOGIN PASSWORD :'openwebui';
CREATE ROLE portcullis LOGIN PASSWORD :'portcullis';
CREATE DATABASE openwebui OWNER openwebui;
CREATE DATABASE portcullis OWNER portcullis;
REVOKE CONNECT ON DATABASE openwebui, portcullis FROM PUBLIC;
GRANT CONNECT ON DATABASE openwebui TO portcullis;
\connect openwebui
-- Its tables are made at its first start.
ALTER DEFAULT PRIVILEGES FOR ROLE openwebui IN SCHEMA public GRANT SELECT ON TABLES TO portcullis;
SQL
