"""A decision point's store, wherever it is: in its state folder, or in the database that a file names."""

from __future__ import annotations

from pathlib import Path

from pdp.control.sqlite import Sqlite
from pdp.control.store import Store, StoreError


def open_store(folder: Path, database: Path | None = None) -> Store:
    """Open the store in `folder`, or in the database whose address the file `database` holds; raises `StoreError`."""
    if database is None:
        return Store(Sqlite(folder))
    try:
        from pdp.control.postgresql import Postgresql  # noqa: PLC0415 - its driver is an extra, and few need it
    except ImportError:
        raise StoreError("`database` needs the extra `postgresql`: `pip install 'exequatur[postgresql]'`") from None
    return Store(Postgresql(database))
