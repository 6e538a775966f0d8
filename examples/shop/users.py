"""Who can sign in here. A real shop asks a table of users, and for a password or a passkey."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class User:
    """Somebody with an account."""

    id: str
    name: str
    about: str


USERS = {
    user.id: user
    for user in (
        User("ada", "Ada", "collects bowls"),
        User("noor", "Noor", "pours the tea"),
        User("mateo", "Mateo", "breaks a cup a week"),
    )
}
