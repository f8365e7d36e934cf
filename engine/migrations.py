"""The journal's schema, as numbered steps: each is applied once, in order, and never changed after it was released.

Plain SQL that SQLite and PostgreSQL both take. Identifiers come from the table `counters`, so that neither one's own
kind of serial number is needed. Times are microseconds since 1970.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE counters (name VARCHAR(20) PRIMARY KEY, last BIGINT NOT NULL)",
        "INSERT INTO counters (name, last) VALUES ('stamp', 0), ('task', 0)",
        # A clone that was accepted. `plan` and `disks` are JSON.
        """CREATE TABLE tasks (
            id BIGINT PRIMARY KEY,
            kind VARCHAR(20) NOT NULL,
            status VARCHAR(20) NOT NULL,
            message TEXT NOT NULL,
            target_uri TEXT NOT NULL,
            server VARCHAR(40) NOT NULL,
            cancelled INTEGER NOT NULL DEFAULT 0,
            created BIGINT NOT NULL,
            ended BIGINT,
            plan TEXT NOT NULL
        )""",
        "CREATE INDEX tasks_by_status ON tasks (status, ended)",
        # Names that are ours while a clone is made; MAC addresses for as long as the clone is there.
        """CREATE TABLE reservations (
            kind VARCHAR(20) NOT NULL,
            scope TEXT NOT NULL,
            name VARCHAR(300) NOT NULL,
            task BIGINT,
            domain VARCHAR(40),
            PRIMARY KEY (kind, scope, name)
        )""",
        "CREATE INDEX reservations_by_task ON reservations (task)",
        "CREATE INDEX reservations_by_domain ON reservations (domain)",
        # Bytes that accepted clones are still going to write, per pool.
        """CREATE TABLE promises (
            task BIGINT NOT NULL,
            pool VARCHAR(300) NOT NULL,
            item VARCHAR(300) NOT NULL,
            bytes BIGINT NOT NULL,
            PRIMARY KEY (task, pool, item)
        )""",
        "CREATE INDEX promises_by_pool ON promises (pool)",
        # What a task has done, written before it is done. `args` and `result` are JSON.
        """CREATE TABLE steps (
            task BIGINT NOT NULL,
            number INTEGER NOT NULL,
            kind VARCHAR(20) NOT NULL,
            state VARCHAR(20) NOT NULL,
            begun BIGINT NOT NULL,
            args TEXT NOT NULL,
            result TEXT,
            PRIMARY KEY (task, number)
        )""",
        # What we made and may therefore delete with its domain. `storage` is JSON.
        """CREATE TABLE clones (
            uuid VARCHAR(40) PRIMARY KEY,
            name VARCHAR(300) NOT NULL,
            created BIGINT NOT NULL,
            storage TEXT NOT NULL
        )""",
    ),
    (
        # Bytes done by item, as JSON.
        "ALTER TABLE tasks ADD COLUMN done TEXT NOT NULL DEFAULT '{}'",
    ),
    (
        # Overlays that depend on an image: `parent` is the image's path.
        """CREATE TABLE links (
            parent TEXT NOT NULL,
            pool VARCHAR(300) NOT NULL,
            name VARCHAR(300) NOT NULL,
            PRIMARY KEY (parent, pool, name)
        )""",
    ),
    ("CREATE TABLE facts (name VARCHAR(20) PRIMARY KEY, value TEXT NOT NULL)",),
    (
        # Images that a server does something to, so that nobody else may: `act` says what.
        "CREATE TABLE holds (path VARCHAR(4096) PRIMARY KEY, server VARCHAR(40) NOT NULL, act VARCHAR(20) NOT NULL)",
    ),
    (
        # Of a secret only the SHA-256 is kept. `owner` is the user that a token acts for, '' for none.
        """CREATE TABLE tokens (
            name VARCHAR(100) PRIMARY KEY,
            digest VARCHAR(64) NOT NULL UNIQUE,
            scope VARCHAR(20) NOT NULL,
            owner VARCHAR(300) NOT NULL,
            created BIGINT NOT NULL,
            expires BIGINT,
            used BIGINT
        )""",
    ),
    (
        # Who asked for a task, and whose a clone therefore is; '' where nobody was asked for a name.
        "ALTER TABLE tasks ADD COLUMN owner VARCHAR(300) NOT NULL DEFAULT ''",
        "CREATE INDEX tasks_by_owner ON tasks (owner, status)",
        "ALTER TABLE clones ADD COLUMN owner VARCHAR(300) NOT NULL DEFAULT ''",
    ),
    (
        # Tasks that were accepted together; what a finished one has to say beside; whether a key answers with it, and
        # the change of the journal at which it was last written.
        "INSERT INTO counters (name, last) VALUES ('batch', 0), ('change', 0)",
        "ALTER TABLE tasks ADD COLUMN batch BIGINT",
        "ALTER TABLE tasks ADD COLUMN warning TEXT",
        "ALTER TABLE tasks ADD COLUMN keyed INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN changed BIGINT NOT NULL DEFAULT 0",
        "CREATE INDEX tasks_by_batch ON tasks (batch)",
        "CREATE INDEX tasks_by_change ON tasks (changed, id)",
        # Tasks that have left the list, so that whoever follows it hears of that.
        """CREATE TABLE forgotten (
            task BIGINT PRIMARY KEY,
            owner VARCHAR(300) NOT NULL,
            changed BIGINT NOT NULL,
            at BIGINT NOT NULL
        )""",
        "CREATE INDEX forgotten_by_change ON forgotten (changed)",
        # Idempotency keys: `request` is a hash of what each came with, `tasks` the ids of the answer, as JSON.
        """CREATE TABLE request_keys (
            owner VARCHAR(300) NOT NULL,
            name VARCHAR(300) NOT NULL,
            request VARCHAR(64) NOT NULL,
            server VARCHAR(40) NOT NULL,
            created BIGINT NOT NULL,
            tasks TEXT,
            batch BIGINT,
            PRIMARY KEY (owner, name)
        )""",
    ),
    (
        # The file system that the bytes are on, by its device number, which pools may have in common.
        "ALTER TABLE promises ADD COLUMN device BIGINT",
        "CREATE INDEX promises_by_device ON promises (device)",
    ),
    (
        # The id of the request that a task came of, for the log of the server that ends it; '' where that is not known.
        "ALTER TABLE tasks ADD COLUMN request VARCHAR(128) NOT NULL DEFAULT ''",
    ),
    (
        # Domains that a server is deleting, and the files that go with each, as JSON.
        """CREATE TABLE deletions (
            uuid VARCHAR(36) PRIMARY KEY,
            what TEXT NOT NULL
        )""",
    ),
    (
        # The server that made them, whose id tells on which libvirt; '' where that is not known.
        "ALTER TABLE clones ADD COLUMN server VARCHAR(40) NOT NULL DEFAULT ''",
        "ALTER TABLE links ADD COLUMN server VARCHAR(40) NOT NULL DEFAULT ''",
    ),
    (
        # Where it was made: its pool may lead elsewhere later on; '' where that is not known.
        "ALTER TABLE links ADD COLUMN path TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX links_by_name ON links (name)",
    ),
    (
        # Batches that a server undoes: what they have made is removed.
        "CREATE TABLE withdrawals (batch BIGINT PRIMARY KEY, server VARCHAR(40) NOT NULL)",
    ),
    (
        # The task that made it: another volume of that name is another one, on this libvirt or the next.
        """CREATE TABLE links_of_tasks (
            parent TEXT NOT NULL,
            pool VARCHAR(300) NOT NULL,
            name VARCHAR(300) NOT NULL,
            server VARCHAR(40) NOT NULL DEFAULT '',
            path TEXT NOT NULL DEFAULT '',
            task BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (parent, pool, name, task)
        )""",
        "INSERT INTO links_of_tasks SELECT parent, pool, name, server, path, 0 FROM links",
        "DROP TABLE links",
        "ALTER TABLE links_of_tasks RENAME TO links",
        "CREATE INDEX links_by_name ON links (name)",
    ),
)
