"""Where a study is kept: a journal file, SQLite, or PostgreSQL; and what is said when it is not there. No torch."""

from __future__ import annotations

import errno
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kd3d.compress.search.journal import open_journal
from kd3d.errors import BackendError, DataError, OutputError, UsageError
from kd3d.optional import require

JOURNAL = (".log", ".journal")
SQLITE = (".db", ".sqlite", ".sqlite3")
_CORRUPT = ("not a database", "malformed", "no such table", "no such column")
_KINDS = "a journal file (.log, .journal), an SQLite file (.db, .sqlite) or postgresql://USER@HOST/NAME"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIES = 3
# What Optuna raises over a journal that is none, or a database with other things in its columns.
_DAMAGE = (ValueError, KeyError, TypeError, AssertionError, AttributeError, IndexError, OverflowError, RecursionError)
Result = TypeVar("Result")


class StudyStorage:
    """A storage that was found.

    Args:
        text: path or URL; see ``_KINDS``.
        patience_s: how long an operation is tried again while the storage does not answer.

    Raises:
        UsageError: no such kind of storage.
        BackendError: Optuna or the database driver is not installed, or the server does not answer.
        DataError: the file is something else.
        OutputError: the file cannot be made.
    """

    def __init__(self, text: str, *, patience_s: float = 15.0) -> None:
        self.patience_s = patience_s
        self.path, self._url = _recognise(text)
        self.name = _without_password(text)
        require("optuna", extra="search").logging.set_verbosity(30)  # warnings; every trial is told by kd3d itself
        self._made: int | None = None
        if self.path is not None:
            _make_folder(self.path)
        self.storage: Any = self.steady(self._open)
        if self.path is not None:
            self._made = self.path.stat().st_ino

    def steady(self, operation: Callable[[], Result]) -> Result:
        """What ``operation`` on the storage returns, tried again for a while if the storage does not answer.

        At least ``_TRIES`` times: two processes that make the tables of an empty database at once get into each
        other's way, and on a busy machine the first try alone may outlast the patience.

        Raises:
            BackendError: it went on not answering, or the file is gone.
            DataError: what is in it is damaged, or is no study.
            OutputError: the disk is full.
        """
        until = time.monotonic() + self.patience_s
        pause, tries = 0.2, 0
        while True:
            tries += 1
            try:
                self._still_there()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", require("optuna", extra="search").exceptions.ExperimentalWarning)
                    return operation()
            except Exception as error:
                failure = self._translate(error)
                if failure is None:
                    raise
                late = tries >= _TRIES and time.monotonic() + pause > until
                if isinstance(failure, (DataError, OutputError)) or isinstance(error, _GoneError) or late:
                    raise failure from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _open(self) -> Any:
        storages = require("optuna.storages", extra="search")
        if self.path is not None and self._url is None:
            _check_journal(self.path)
            return storages.JournalStorage(open_journal(self.path))
        options: dict[str, Any] = {"pool_pre_ping": True}
        if self.path is not None:
            options["connect_args"] = {"timeout": 60}  # another process may be writing
        return storages.RDBStorage(self._url, engine_kwargs=options)

    def _still_there(self) -> None:
        """A database goes on writing to a deleted file, and a journal begins an empty one: neither is wanted."""
        if self.path is None or self._made is None:
            return
        if not self.path.exists() or self.path.stat().st_ino != self._made:
            raise _GoneError(f"{self.path} was deleted or replaced")

    def _translate(self, error: Exception) -> Exception | None:
        optuna, sql = require("optuna.exceptions", extra="search"), require("sqlalchemy.exc", extra="search")
        text = _reason(error)
        if isinstance(error, (sql.DatabaseError, optuna.StorageInternalError)) and any(w in text for w in _CORRUPT):
            return DataError(f"{self.name}: holds no study, or a damaged one ({text}). Choose another --storage.")
        if self.path is not None and isinstance(error, _DAMAGE):
            kind = "journal" if self._url is None else "database"
            return DataError(
                f"{self.name}: not a {kind} of a study, or a damaged one ({text}). Choose another --storage."
            )
        if (isinstance(error, OSError) and error.errno in _FULL) or "disk is full" in text:
            return OutputError(
                f"{self.name}: the disk is full. Finished trials are kept; make room, then repeat the command with "
                "--resume."
            )
        if isinstance(error, (sql.SQLAlchemyError, optuna.StorageInternalError, OSError, _GoneError)):
            return BackendError(
                f"the storage {self.name} does not answer ({text}). Finished trials are kept; when it is back, "
                "repeat the command with --resume."
            )
        return None


class _GoneError(Exception):
    """The file of a storage is not the one that was opened."""


def _recognise(text: str) -> tuple[Path | None, str | None]:
    """The file of a storage, if it is one, and the URL for SQLAlchemy, if it needs one."""
    scheme, colon, rest = text.partition("://")
    if not colon:
        path = Path(text)
        if path.suffix in JOURNAL:
            return path, None
        if path.suffix in SQLITE:
            return path, f"sqlite:///{path.resolve()}"
    elif scheme == "sqlite" and rest.startswith("/"):
        path = Path(rest[1:])
        return path, f"sqlite:///{path.resolve()}"
    elif scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        require("psycopg", extra="postgres")
        return None, f"postgresql+psycopg://{rest}"
    raise UsageError(f"the storage {_without_password(text)!r} is not understood. Give {_KINDS}.")


def _check_journal(path: Path) -> None:
    """Require that a file that is there begins as a journal does: Optuna would write behind anything.

    Raises:
        ValueError: it does not.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    if first and not (first.startswith(b"{") and (not first.endswith(b"\n") or "op_code" in json.loads(first))):
        raise ValueError("its first line is no entry of a journal")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}). Choose another --storage.") from error
    if path.is_dir():
        raise UsageError(f"the storage {path} is a folder. Give {_KINDS}.")


def _without_password(text: str) -> str:
    scheme, colon, rest = text.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{colon}{user.partition(':')[0]}{at}{place}" if at else text


def _reason(error: Exception) -> str:
    """The first line of what the database itself said."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(getattr(cause, "orig", None) or cause).strip().splitlines() or [type(cause).__name__])[0]
