"""``KeyRing``: the keys for encryption at rest, from a variable, a file or a function."""

from __future__ import annotations

import asyncio
import inspect
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Self, cast

from sessiondb.core.errors import ConfigurationError, SessionDBError, StoreUnavailable
from sessiondb.core.keys import HOW_TO_MAKE_ONE, Key, Plain, aes_gcm, generate_key, parse_key

DEFAULT_VARIABLE = "SESSIONDB_KEYS"
MOST_KEYS = 32
MOST_THREADS = 4

KeyText = str | bytes
Given = KeyText | Iterable[KeyText]
Fetch = Callable[[], Given | Awaitable[Given]]


class KeyRing:
    """Keys for ``SessionDB(keys=...)``: ``current`` encrypts, all decrypt. A key that is taken out is retired: what it
    has encrypted is refused from then on, so run ``sessiondb reencrypt`` before.

    A key is 32 random bytes: 43 characters of base64url, 64 hexadecimal ones, or the bytes. ``KeyRing.generate()``
    makes one. ``plain`` says what becomes of values that are not encrypted:

    * ``"refuse"``: nothing plain is read. Whoever can write to the database cannot write sessions.
    * ``"accept"``: encryption is being turned on. Plain values are read, and written encrypted.
    * ``"write"``: encryption is being turned off. Encrypted values are read, and written plain.

    Raises ``ConfigurationError`` for a key that is short, no random bytes or well known (OWASP ASVS 11.6.1,
    NIST SP 800-57), and without the extra ``crypto``. The ``repr`` shows the ids of the keys alone.
    """

    _keys: dict[bytes, Key]

    def __init__(self, current: KeyText, *older: KeyText, plain: Plain = "refuse") -> None:
        self._set_up(plain)
        self._keys = _parsed((current, *older), "KeyRing")

    @classmethod
    def from_env(cls, name: str = DEFAULT_VARIABLE, *, plain: Plain = "refuse") -> Self:
        """The keys in an environment variable, the current one first, with commas or white space between them.

        Raises ``ConfigurationError``, also if it is not set.
        """
        text = os.environ.get(name, "")
        if not text.strip():
            raise ConfigurationError(f"${name} is not set, or is empty. {HOW_TO_MAKE_ONE}.")
        ring = cls._empty(plain)
        ring._keys = _parsed(text.replace(",", " ").split(), f"${name}")
        return ring

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, plain: Plain = "refuse", refresh_every: float | None = 60.0
    ) -> Self:
        """The keys in a file, one a line, the current one first; lines that begin with ``#`` are left out.

        The file is read now, every ``refresh_every`` seconds (``None``: never), and when a session names a key that is
        not here. Raises ``ConfigurationError``, also where others than its owner may read it.
        """
        where = Path(path)
        ring = cls._empty(plain, lambda: _lines_of(where), refresh_every, where=str(where))
        ring._keys = _parsed(_lines_of(where), str(where))
        return ring

    @classmethod
    def from_callable(
        cls, fetch: Fetch, *, timeout: float = 5.0, refresh_every: float | None = 300.0, plain: Plain = "refuse"
    ) -> Self:
        """The keys that ``fetch()`` returns, the current one first: from a key management service, say.

        ``fetch`` may be ``async``; a plain function runs in a thread. It is called when the database opens, every
        ``refresh_every`` seconds (``None``: never), and when a session names a key that is not here. Longer than
        ``timeout`` seconds, or an exception, at opening means ``StoreUnavailable``; later the keys that are here stay.
        """
        if not callable(fetch):
            raise ConfigurationError(f"KeyRing.from_callable: {fetch!r:.100} is no function.")
        if not _within(timeout, 0.01, 300):
            raise ConfigurationError(f"KeyRing: timeout is {timeout!r}; use 0.01 to 300 seconds.")
        return cls._empty(plain, fetch, refresh_every, timeout=timeout, where="The key ring's function")

    @staticmethod
    def generate() -> str:
        """A new key, as text. Keep it where the database's backups are not."""
        return generate_key()

    # -- what the store needs -----------------------------------------------------------------------------

    @property
    def current(self) -> Key:
        """The key that encrypts. Raises ``StoreUnavailable`` while the keys have not been fetched."""
        if not self._keys:
            raise StoreUnavailable("The encryption keys have not been fetched yet; open the SessionDB first.")
        return next(iter(self._keys.values()))

    def find(self, key_id: bytes) -> Key | None:
        """The key of that id, if it is in the ring."""
        return self._keys.get(key_id)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, the current one first. They name keys in the database, in messages and reports."""
        return tuple(key_id.decode() for key_id in self._keys)

    @property
    def plain(self) -> Plain:
        """What becomes of values that are not encrypted."""
        return self._plain

    @property
    def refresh_every(self) -> float | None:
        """Seconds between two looks at the source; ``None``: never."""
        return self._refresh_every if self._fetch is not None else None

    @property
    def refreshes(self) -> bool:
        """Whether ``refresh`` can find other keys."""
        return self._fetch is not None

    async def prepare(self) -> None:
        """Fetch the keys if there are none yet. Raises ``ConfigurationError`` or ``StoreUnavailable``."""
        if not self._keys:
            await self.refresh()

    async def refresh(self) -> None:
        """Fetch the keys again. If that fails, those that are here stay, and it raises as ``prepare`` does."""
        fetch = self._fetch
        if fetch is None:
            return
        try:
            async with asyncio.timeout(self._timeout):
                given = fetch() if inspect.iscoroutinefunction(fetch) else await asyncio.to_thread(self._call, fetch)
                if inspect.isawaitable(given):
                    given = await cast("Awaitable[Given]", given)
        except SessionDBError:
            raise
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._where} did not return keys within {self._timeout:g} s.") from error
        except Exception as error:
            # Not its text, which may hold a part of what was fetched.
            raise StoreUnavailable(f"{self._where} raised {type(error).__name__}.") from error
        found = _parsed((given,) if isinstance(given, (str, bytes)) else given, self._where)
        # Those that are here already stay the same objects: what was derived of them stays good.
        self._keys = {key_id: self._keys.get(key_id, key) for key_id, key in found.items()}

    def _call(self, fetch: Fetch) -> Given | Awaitable[Given]:
        """Call ``fetch`` in this thread, which nobody can stop: where all calls hang, there is no other."""
        if not self._threads.acquire(blocking=False):
            raise StoreUnavailable(f"{self._where} has not returned from its last {MOST_THREADS} calls.")
        try:
            return fetch()
        finally:
            self._threads.release()

    def __repr__(self) -> str:
        plain = "" if self._plain == "refuse" else f", plain={self._plain!r}"
        return f"KeyRing({', '.join(map(repr, self.ids)) or 'not fetched yet'}{plain})"

    # -- making one ---------------------------------------------------------------------------------------

    @classmethod
    def _empty(
        cls,
        plain: Plain,
        fetch: Fetch | None = None,
        refresh_every: float | None = None,
        *,
        timeout: float = 5.0,
        where: str = "KeyRing",
    ) -> Self:
        ring = cls.__new__(cls)
        ring._set_up(plain, fetch, refresh_every, timeout, where)
        return ring

    def _set_up(
        self,
        plain: Plain,
        fetch: Fetch | None = None,
        refresh_every: float | None = None,
        timeout: float = 5.0,
        where: str = "KeyRing",
    ) -> None:
        if plain not in ("refuse", "accept", "write"):
            raise ConfigurationError(f"KeyRing: plain is {plain!r:.100}; use 'refuse', 'accept' or 'write'.")
        if refresh_every is not None and not _within(refresh_every, 1, 86_400):
            raise ConfigurationError(f"KeyRing: refresh_every is {refresh_every!r}; use 1 to 86,400 seconds, or None.")
        aes_gcm()
        self._plain: Plain = plain
        self._fetch = fetch
        self._refresh_every = refresh_every
        self._timeout = timeout
        self._where = where
        self._threads = threading.BoundedSemaphore(MOST_THREADS)
        self._keys = {}


def _parsed(given: object, where: str) -> dict[bytes, Key]:
    """The keys in ``given`` by their ids, in order."""
    if not isinstance(given, Iterable):
        raise ConfigurationError(
            f"{where}: keys are a {type(given).__name__}; use a list of them, the current one first."
        )
    keys = [parse_key(one, where) for one in given]
    if not keys:
        raise ConfigurationError(f"{where}: there is no key. {HOW_TO_MAKE_ONE}.")
    if len(keys) > MOST_KEYS:
        raise ConfigurationError(f"{where}: there are {len(keys)} keys, more than {MOST_KEYS}; retire the oldest.")
    ring = {key.id: key for key in keys}
    if len(ring) < len(keys):
        raise ConfigurationError(f"{where}: the same key is there twice; name each once, the current one first.")
    return ring


def _lines_of(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            # Of the file that is open, not of what has the name by now.
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigurationError(
                    f"{path} may be used by others than its owner (mode {stat.S_IMODE(mode):04o}); "
                    f"keys need: chmod 600 {path} (in Kubernetes: defaultMode: 0400)."
                )
            text = file.read(65_536).decode("ascii")
    except OSError as error:
        raise ConfigurationError(f"{path}: the keys cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not ASCII; write one key a line. {HOW_TO_MAKE_ONE}.") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
