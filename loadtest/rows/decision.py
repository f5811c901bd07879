"""Does a call notice how many grants there are? A gateway of 100 rows beside one of three million."""

import sqlite3
import time

from stage import say
from rows.target import Ratio, Target

# Each user has three rows: two servers and a group.
FEW, MANY = 33, 1_000_000
# So many callers in turn, spread over all users; there are no more in the small one.
CALLERS = 33

RATIOS = [
    Ratio("decision", f"decision with 3,000,000 rows ÷ with 100 rows, {what}, {callers}", "≤ 1.1", "≤ 1.0",
          f"3,000,000 rows, {callers}", f"100 rows, {callers}", key)
    for callers in ("one caller", f"{CALLERS} callers")
    for what, key in (("CPU per call", "cpu"), ("time per call", "time"))
]
# There is nothing to hold it against: the small one has no two thousand people.
BESIDE = ["3,000,000 rows, 2,000 callers"]

FILL = """
    INSERT INTO user_tenant_access (user_email, tenant_id) SELECT {person}, 'rest' FROM people;
    INSERT INTO user_tenant_access (user_email, tenant_id) SELECT {person}, 'server-' || n % 70 FROM people;
    INSERT INTO user_group_membership (user_email, group_name) SELECT {person}, 'MCP-Group-' || n % {groups} FROM people;
    INSERT INTO group_tenant_mapping (group_name, tenant_id)
        SELECT 'MCP-Group-' || n, 'server-' || n % 70 FROM people WHERE n <= {groups};
"""


def fill(database, users):
    """Writes the rows behind the gateway's back, and without its triggers: nobody has to be told yet."""
    began = time.monotonic()
    connection = sqlite3.connect(database, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    statements = FILL.format(person="'user' || n || '@example.com'", groups=200 if users > 1000 else 1)
    connection.executescript(
        "PRAGMA synchronous = OFF; BEGIN;\n"
        + "".join(f"DROP TRIGGER {name};\n" for name, _ in triggers)
        + "CREATE TEMP TABLE people AS WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted "
        + f"WHERE n < {users}) SELECT n FROM counted;\n{statements}"
        + "".join(f"{sql};\n" for _, sql in triggers) + "COMMIT; ANALYZE;")
    rows = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
               for table in ("user_tenant_access", "user_group_membership", "group_tenant_mapping"))
    connection.close()
    say(f"{rows:,} rows written in {time.monotonic() - began:.0f} s")


def targets(scene):
    """Two gateways, each with one caller and with many."""
    made = {}
    for title, name, users in (("100 rows", "few", FEW), ("3,000,000 rows", "many", MANY)):
        database = scene.stage.folder / f"{name}.db"
        place = scene.stage.place(name, scene.programs.gateway, f"sqlite:{database}", {"rest": f"{scene.peer_url}/3"})
        fill(database, users)
        process = scene.stage.run(place, name)
        say(f"{title}: ready after {process.seconds_to_ready:.2f} s, {process.memory_mb():.0f} MiB")
        for callers, count in (("one caller", 1), (f"{CALLERS} callers", CALLERS), ("2,000 callers", 2000)):
            if count > users:
                continue
            people = [f"user{1 + number * users // count}@example.com" for number in range(count)]
            tokens = scene.stage.tokens(f"{name}-{count}", people)
            url = f"{process.url}/rest/echo"
            scene.stage.await_call(process, url, tokens.read_text().split()[0])
            made[f"{title}, {callers}"] = Target(f"{title}, {callers}", process, url, tokens)
    return made
