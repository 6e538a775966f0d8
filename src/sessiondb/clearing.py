"""What a logout asks the browser to remove: the header ``Clear-Site-Data`` (W3C)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sessiondb.core.errors import ConfigurationError
from sessiondb.state import State

log = logging.getLogger("sessiondb")

# https://w3c.github.io/webappsec-clear-site-data/, and what Chromium has added.
KNOWN = ("cache", "clientHints", "cookies", "executionContexts", "prefetchCache", "prerenderCache", "storage", "*")


def clear_with_the_response(state: State, wanted: Iterable[str]) -> None:
    """Have the response of this request carry the header. Raises ``ConfigurationError`` for what it does not know."""
    given: object = wanted
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigurationError(
            f"logout: clear_site_data is {given!r:.100}; use a list, such as ('cookies', 'storage')."
        )
    values = list(dict.fromkeys(given))
    for value in values:
        if value not in KNOWN:
            raise ConfigurationError(f"logout: clear_site_data has {value!r:.100}; use some of {', '.join(KNOWN)}.")
    if not values:
        return
    if state.headers_sent and not state.untold:
        log.warning("logout(clear_site_data=...) came too late for its header: the response had started.")
        return
    state.clear_site_data = ", ".join(f'"{value}"' for value in values).encode("ascii")
