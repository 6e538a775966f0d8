"""The commands of ``sessiondb``. Exit codes: 0 fine, 1 something is wrong, 2 asked wrongly."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.record import EndReason, SessionInfo
from sessiondb.keyring import KeyRing
from sessiondb.ops import audit, bench_report, bench_scratch, encryption, output, schema, stats
from sessiondb.ops import bench as benchmark
from sessiondb.ops.doctor import TIMEOUT, examine
from sessiondb.ops.revoking import Revocation, confirmed, moment
from sessiondb.ops.running import Json, KeysFile, Url, UrlOption, User, actor, checked, database, run, url_of
from sessiondb.stores.base import Swept

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would show the password in the URL.
    pretty_exceptions_enable=False,
    help="Look after a session database. The URL may be given, or be in $SESSIONDB_URL (where no other user sees it).",
)

keys_app = typer.Typer(no_args_is_help=True, help="Keys for encryption at rest.")
app.add_typer(keys_app, name="keys")
app.add_typer(audit.app, name="audit")
app.command()(audit.forget)
app.command()(stats.stats)


@app.command()
def doctor(
    url: Url = None,
    json: Json = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the database.", min=1)] = TIMEOUT,
) -> None:
    """Look for settings that would lose sessions, and say how to mend each. Changes nothing."""
    report = run(lambda: examine(url_of(url), timeout=timeout))
    if json:
        typer.echo(output.report_json(report))
    else:
        output.show_report(report)
    raise typer.Exit(1 if report.has_problems else 0)


@app.command()
def init(
    url: Url = None,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the statements, and connect to nothing.")] = False,
    views: Annotated[
        bool, typer.Option("--views", help="With --sql: print views too, for people who ask in SQL.")
    ] = False,
) -> None:
    """Make the tables, or print the statements that do."""
    if sql:
        typer.echo(checked(lambda: schema.ddl(url_of(url)) + (schema.views(url_of(url)) if views else "")), nl=False)
        return
    if views:
        typer.echo("sessiondb: the app needs no views; sessiondb init --sql --views prints them.", err=True)
        raise typer.Exit(2)

    async def work() -> None:
        async with database(url, new=True):
            pass

    run(work)
    typer.echo("The database is ready for sessions.")


@app.command("list")
def list_(
    user: Annotated[str, typer.Option("--user", metavar="ID", help="The user's id.", show_default=False)],
    ended: Annotated[bool, typer.Option("--ended", help="Show those that have ended, too.")] = False,
    limit: Annotated[int, typer.Option(help="Show no more than this many.", min=1, max=10_000)] = 100,
    json: Json = False,
    url: UrlOption = None,
) -> None:
    """List the sessions of a user, newest first."""

    async def work() -> list[SessionInfo]:
        async with database(url) as db:
            return await db.sessions_of(user, include_ended=ended, limit=limit)

    found = run(work)
    if json:
        typer.echo(output.sessions_json(found))
    elif found:
        output.show_sessions(found)
    else:
        typer.echo(f"User {user} has no {'' if ended else 'living '}session.")


@app.command()
def revoke(
    sid: Annotated[str | None, typer.Argument(help="The session's public id.", show_default=False)] = None,
    user: User = None,
    ip: Annotated[str | None, typer.Option(help="Seen first or last at this address.", show_default=False)] = None,
    network: Annotated[str | None, typer.Option(help="... in this network: 192.0.2.0/24.", show_default=False)] = None,
    user_agent: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The browser's name contains this.", show_default=False)
    ] = None,
    before: Annotated[str | None, typer.Option(metavar="T", help="Created before T.", show_default=False)] = None,
    after: Annotated[str | None, typer.Option(metavar="T", help="Created at T or later.", show_default=False)] = None,
    active_at: Annotated[
        str | None,
        typer.Option(metavar="T", help="Living at T: what a backup of that time has brought back.", show_default=False),
    ] = None,
    unused_since: Annotated[str | None, typer.Option(metavar="T", help="Not used since T.", show_default=False)] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="Every session that there is.")] = False,
    reason: Annotated[str, typer.Option(help="What the next visit is told: an EndReason.")] = EndReason.ADMIN.value,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
    url: UrlOption = None,
) -> None:
    """End one session, all of a user, those with something in common, or all. T is an ISO 8601 time, in UTC."""
    asked = checked(
        lambda: Revocation(
            sid,
            everyone,
            reason,
            user_id=user,
            ip=ip,
            network=network,
            user_agent=user_agent,
            created_before=before,
            created_after=after,
            active_at=active_at,
            last_seen_before=unused_since,
        )
    )

    async def work() -> int | None:
        async with database(url) as db:
            if dry_run:
                return await asked.count(db)
            if asked.is_broad and not yes and not confirmed(await asked.count(db)):
                return None
            return await asked.carry_out(db, actor())

    found = run(work)
    if found is None:
        typer.echo("Nothing was done.", err=True)
        raise typer.Exit(1)
    if json:
        typer.echo(output.as_json({"found" if dry_run else "ended": found}))
    elif sid is not None and not found:
        typer.echo("No living session has this id.", err=True)
    else:
        typer.echo(f"{found:,} session{'' if found == 1 else 's'} {'would be ended' if dry_run else 'ended'}.")
    raise typer.Exit(1 if sid is not None and not found else 0)


@app.command()
def lock(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)],
    until: Annotated[
        str | None,
        typer.Option(metavar="T", help="An ISO 8601 time, in UTC; else for good.", show_default=False),
    ] = None,
    json: Json = False,
    url: UrlOption = None,
) -> None:
    """End all sessions of a user, and refuse their logins until then."""
    at = checked(lambda: None if until is None else moment(until))

    async def work() -> int:
        async with database(url) as db:
            try:
                return await db.lock_user(user, at, actor=actor())
            except ValueError as error:
                raise ConfigurationError(str(error)) from None

    ended = run(work)
    if json:
        typer.echo(output.as_json({"ended": ended}))
    else:
        typer.echo(f"User {user} is locked; {ended} session{'' if ended == 1 else 's'} ended.")


@app.command()
def unlock(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)],
    url: UrlOption = None,
) -> None:
    """Let a user log in again."""

    async def work() -> None:
        async with database(url) as db:
            await db.unlock_user(user, actor=actor())

    run(work)
    typer.echo(f"User {user} may log in again.")


@app.command()
def sweep(url: Url = None, json: Json = False) -> None:
    """End what has expired, and delete what ended long ago. The app does this by itself."""

    async def work() -> list[Swept]:
        passes: list[Swept] = []
        async with database(url) as db:
            await db.runtime.sweeping.judge_as_the_app_does()
            while not passes or passes[-1].more:
                passes.append(await db.sweep())
        return passes

    passes = run(work)
    ended, purged = sum(len(one.ended) for one in passes), sum(one.purged for one in passes)
    if json:
        typer.echo(output.as_json({"ended": ended, "purged": purged}))
    else:
        typer.echo(f"{ended} ended, {purged} deleted.")


@app.command()
def repair(url: Url = None, json: Json = False) -> None:
    """List every session of a Redis or Valkey database anew, after a loss of data."""
    count = run(lambda: schema.repair(url_of(url)))
    if json:
        typer.echo(output.as_json({"sessions": count}))
    else:
        typer.echo(f"{count} session{'' if count == 1 else 's'} listed.")


@app.command()
def reencrypt(
    url: Url = None,
    keys: KeysFile = None,
    plain: Annotated[
        str, typer.Option(help="accept: also encrypt what is not; write: decrypt all, to turn encryption off.")
    ] = "refuse",
    json: Json = False,
) -> None:
    """Write every session again with the current key, and say which older keys are not used any more."""
    ring = checked(lambda: encryption.ring_from(keys, encryption.checked_plain(plain)))

    async def work() -> encryption.Outcome:
        async with database(url, keys=ring) as db:
            return await encryption.reencrypt_all(db, ring, lambda line: typer.echo(line, err=True))

    done = run(work)
    if json:
        typer.echo(output.as_json(done))
    else:
        typer.echo(f"{done.examined:,} sessions looked at, {done.rewritten:,} written again.")
        for use in done.keys:
            typer.echo(encryption.use_text(use))
        if done.unreadable:
            typer.echo(f"{done.unreadable:,} cannot be decrypted; they are quarantined until they expire.", err=True)
        if done.left:
            typer.echo(f"{done.left:,} were being written to; run this again.", err=True)
    raise typer.Exit(0 if done.is_complete else 1)


@app.command()
def bench(
    url: Url = None,
    seconds: Annotated[float, typer.Option(help="For each verb and number of callers.")] = 1.0,
    callers: Annotated[list[int] | None, typer.Option(metavar="N", help="At once; repeatable: 1, 32, 256.")] = None,
    sessions: Annotated[int, typer.Option(help="That are there meanwhile.")] = 2000,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, though it is another machine.")] = False,
    json: Json = False,
) -> None:
    """Measure what a database takes, in a throw-away part of it that is removed again."""
    where = url_of(url)
    plan = checked(lambda: benchmark.Plan(seconds, tuple(callers or (1, 32, 256)), sessions))
    if not yes and not bench_scratch.is_local(where) and not checked(lambda: bench_report.confirmed(where)):
        typer.echo("Nothing was done.", err=True)
        raise typer.Exit(1)
    try:
        with bench_report.waiting() as tell:
            measured = run(lambda: benchmark.measure(where, plan, tell))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("Interrupted; what was made is removed.", err=True)
        raise typer.Exit(130) from None
    if json:
        typer.echo(bench_report.as_json(where, plan, measured))
    else:
        bench_report.show(where, plan, measured)


@keys_app.command()
def generate() -> None:
    """Print a new key."""
    typer.echo(KeyRing.generate())


@keys_app.command("list")
def list_keys(keys: KeysFile = None) -> None:
    """Print the ids of the keys, the current one first."""
    for key_id in checked(lambda: encryption.ring_from(keys)).ids:
        typer.echo(key_id)
