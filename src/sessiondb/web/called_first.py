"""Settings of dependencies that are no query parameters."""

from __future__ import annotations

from typing import Any

from sessiondb.core.errors import ConfigurationError


class CalledFirst:
    """Marks a setting that is no query parameter: FastAPI would ask the visitor for it in ``Depends(require_login)``,
    and the endpoint would be open.
    """

    def __get_pydantic_core_schema__(self, *_: object) -> Any:
        raise ConfigurationError(
            "A dependency with settings is called where it is declared: Depends(require_login()), "
            "Depends(RequireRecentLogin(300)), Depends(RequireCsrfToken()), Depends(current_session())."
        )
