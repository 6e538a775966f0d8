"""``sessiondb audit``: verify the audit trail, sign where it stands, export it; and ``sessiondb forget``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from sessiondb.auditing import Audit, append_to
from sessiondb.core.checkpoints import Checkpoint, parse_checkpoint
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import Event
from sessiondb.core.exporting import FORMATS, csv_header
from sessiondb.core.signing import Ed25519Signer, Ed25519Verifier, HmacSigner, Signer, Verifier
from sessiondb.db import SessionDB
from sessiondb.forgetting import Forgotten
from sessiondb.ops import output
from sessiondb.ops.revoking import moment
from sessiondb.ops.running import Json, Url, UrlOption, User, actor, checked, database, run
from sessiondb.stores.base import EventQuery
from sessiondb.verifying import Verification

KEY_VARIABLE = "SESSIONDB_AUDIT_KEY"
PAGE = 1000
TELL_EVERY = 2.0

app = typer.Typer(no_args_is_help=True, help="The audit trail: verify it, sign where it stands, export it.")

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help=f"The private key: ed25519:KEY or hmac:KEY. ${KEY_VARIABLE} if left out.",
        show_default=False,
    ),
]


@app.command()
def verify(
    url: Url = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Exported checkpoints, a line each; repeatable.", show_default=False),
    ] = None,
    public_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Ed25519 public keys that may have signed; repeatable.", show_default=False),
    ] = None,
    key: KeyFile = None,
    json: Json = False,
) -> None:
    """Find every edit, deletion, insertion, reordering and truncation behind the last exported checkpoint.

    Exit code 0: the trail is what was written; 1: it is not, and where.
    """
    exported = checked(lambda: _exported(checkpoints or []))
    verifiers = checked(lambda: _verifiers(public_key or [], key))
    told_at = time.monotonic()

    def tell(count: int) -> None:
        nonlocal told_at
        if not json and time.monotonic() - told_at >= TELL_EVERY:
            told_at = time.monotonic()
            typer.echo(f"{count:,} events ...", err=True)

    async def work() -> Verification:
        async with database(url) as db:
            return await db.verify_trail(exported, verifiers=verifiers, progress=tell)

    found = run(work)
    if json:
        typer.echo(output.as_json(_as_mapping(found)))
    else:
        for line in report(found):
            typer.echo(line)
    raise typer.Exit(0 if found.is_sound else 1)


@app.command()
def checkpoint(
    url: Url = None,
    key: KeyFile = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append it to a file, too.", show_default=False)
    ] = None,
) -> None:
    """Sign where the trail stands now, and print that line: keep it where the database's users cannot write."""
    signer = checked(lambda: _signer(key))
    if signer is None:
        typer.echo(f"No key: the checkpoint is not signed. Set ${KEY_VARIABLE}, or --key.", err=True)

    async def work() -> Checkpoint | None:
        async with database(url, audit=Audit(signer=signer)) as db:
            return await db.checkpoint()

    made = run(work)
    if made is None:
        typer.echo("Nothing has happened since the last checkpoint.", err=True)
        return
    if to is not None:
        try:
            append_to(str(to))(made.line)
        except OSError as error:
            typer.echo(f"sessiondb: {to}: {error.strerror}. The checkpoint follows; keep it.", err=True)
            typer.echo(made.line)
            raise typer.Exit(1) from None
    typer.echo(made.line)


@app.command()
def export(
    url: Url = None,
    format: Annotated[str, typer.Option(help="jsonl, csv, otel (OpenTelemetry) or ocsf.")] = "jsonl",
    user: User = None,
    type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="One type of events: authn_login_success.", show_default=False)
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="T", help="At T or later.", show_default=False)] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="Before T.", show_default=False)] = None,
    to: Annotated[
        Path | None, typer.Option("--to", "-o", metavar="FILE", help="Standard output if left out.", show_default=False)
    ] = None,
) -> None:
    """Write the events, newest first, page by page. T is an ISO 8601 time, in UTC."""
    write = FORMATS.get(format)  # type: ignore[call-overload]
    if write is None:
        checked(lambda: _refuse(f"--format is {format!r}; use {', '.join(FORMATS)}."))
    query = checked(lambda: EventQuery(user_id=user, type=type, since=_micros(since), until=_micros(until), limit=PAGE))

    async def work(file: Any) -> int:
        count = 0
        async with database(url) as db, aclosing(_events(db, query)) as events:
            async for event in events:
                file.write(write(event))
                count += 1
        return count

    if to is None:
        _begin(sys.stdout, format)
        run(lambda: work(sys.stdout))
        return
    try:
        with open(to, "x", encoding="utf-8", newline="") as file:
            os.chmod(to, 0o600)
            _begin(file, format)
            count = run(lambda: work(file))
    except FileExistsError:
        checked(lambda: _refuse(f"{to} exists already; name another file."))
    typer.echo(f"{count:,} events in {to}.", err=True)


def forget(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)],
    key: KeyFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
    url: UrlOption = None,
) -> None:
    """Erase a person: all sessions, and name, addresses and browsers in the audit trail, which stays sound."""
    signer = checked(lambda: _signer(key))
    if not yes and not checked(lambda: _confirmed(user)):
        typer.echo("Nothing was done.", err=True)
        raise typer.Exit(1)

    async def work() -> Forgotten:
        async with database(url, audit=Audit(signer=signer)) as db:
            return await db.forget(user, actor=actor())

    done = run(work)
    if json:
        typer.echo(output.as_json(asdict(done)))
    else:
        typer.echo(f"{done.sessions:,} sessions deleted, and {done.events:,} events are nobody's any more.")


def report(found: Verification) -> list[str]:
    """What people are told of a verification, line by line."""
    lines = [f"{found.events:,} events in {found.streams:,} streams."]
    if found.checkpoint is None:
        lines.append("There is no checkpoint, so nobody can tell whether events are missing at the end of streams.")
    else:
        kept = "exported" if found.exported else "in the database, which whoever can write there can replace"
        at = output.time_text(found.checkpoint.at)
        lines.append(
            f"Checkpoint {found.checkpoint.number} of {at} ({kept}) covers {found.behind:,} of them; "
            f"{found.beyond:,} have come since."
        )
    if not found.signed:
        lines.append("No key was given, so signatures were not verified.")
    if found.is_sound:
        return [*lines, "The trail is what was written."]
    count = len(found.problems)
    lines.append(f"{count:,} problem{'' if count == 1 else 's'}:")
    return [*lines, *(f"  {problem.kind:<10} {problem}" for problem in found.problems)]


def _as_mapping(found: Verification) -> dict[str, Any]:
    mapping: dict[str, Any] = msgspec.to_builtins(found)
    return {"sound": found.is_sound, **mapping}


async def _events(db: SessionDB, query: EventQuery) -> AsyncGenerator[Event, None]:
    after: int | None = None
    while True:
        async with db.runtime.using_store() as store:
            page = await store.events(msgspec.structs.replace(query, after=after))
        for event in page.events:
            yield event
        if page.next is None:
            return
        after = page.next


def _begin(file: Any, format: str) -> None:
    if format == "csv":
        file.write(csv_header())


def _micros(text: str | None) -> int | None:
    return None if text is None else round(moment(text).timestamp() * 1_000_000)


def _exported(paths: Sequence[Path]) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}.") from None
        for number, line in enumerate(lines, 1):
            # A log has something before the line.
            start = line.find("{")
            if not line.strip():
                continue
            try:
                found.append(parse_checkpoint(line[max(start, 0) :]))
            except ValueError as error:
                raise ConfigurationError(f"{path}, line {number}: {error}.") from None
    return found


def _signer(path: Path | None) -> Signer | None:
    """The key in the file, or in the environment."""
    if path is not None:
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}.") from None
    else:
        text = os.environ.get(KEY_VARIABLE, "").strip()
    if not text:
        return None
    kind, colon, key = text.partition(":")
    if kind == "ed25519" and colon:
        return Ed25519Signer(key)
    if kind == "hmac" and colon:
        return HmacSigner(key)
    raise ConfigurationError(f"{path or '$' + KEY_VARIABLE}: write ed25519:KEY or hmac:KEY.")


def _verifiers(public_keys: Sequence[str], path: Path | None) -> list[Verifier]:
    signer = _signer(path)
    public: list[Verifier] = [Ed25519Verifier(key) for key in public_keys]
    return public if signer is None else [*public, signer]


def _confirmed(user: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError(f"All that is kept of {user} is meant, and nobody can be asked here; use --yes.")
    return typer.confirm(f"Erase all that is kept of user {user}? Nothing of it comes back.", err=True)


def _refuse(text: str) -> None:
    raise ConfigurationError(text)
