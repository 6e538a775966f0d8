"""The tables of the SQL stores as SQLAlchemy ``MetaData``, for Alembic. Needs the extra ``sqlalchemy``.

In ``env.py``, beside the tables of the app, so that autogenerate neither makes the sessions' tables nor drops them::

    from sessiondb.stores.schema import metadata

    target_metadata = [Base.metadata, metadata("postgresql")]

With ``?partitions=monthly`` the database has partitions beside, which no ``MetaData`` names; keep Alembic from
dropping them::

    def include_name(name, type_, parent_names):
        return not (type_ == "table" and name.startswith("sessiondb_sessions_"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiondb.core.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData


def metadata(dialect: str, *, prefix: str = "sessiondb_") -> MetaData:
    """The tables as a store for ``dialect`` makes them, with the store's ``?prefix=``.

    ``dialect`` is ``"postgresql"``, ``"mysql"``, ``"mariadb"`` or ``"sqlite"``, as in ``engine.dialect.name``. A store
    that finds these tables makes none itself. Raises ``ConfigurationError`` for another dialect, or without SQLAlchemy.
    """
    try:
        from sessiondb.stores._sqlalchemy_tables import make
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "sqlalchemy":
            raise
        raise ConfigurationError(
            "The MetaData of the sessions' tables needs sqlalchemy, which is not installed: "
            "pip install 'sessiondb[sqlalchemy]'."
        ) from None
    return make(dialect, prefix)
