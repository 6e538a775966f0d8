"""Makes ``docs/security.md``: each check, who asks for it, and the tests that prove it. ``make docs`` writes it.

The tests are found by their marker, ``@pytest.mark.security("L7")``, in the source: nothing is imported or run for it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from checks import GROUPS

import sessiondb
from sessiondb.core import events
from sessiondb.core.policy import Policy
from sessiondb.web.cookie import Cookie

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
SHOWN = 4  # tests named for one check; all are found by their marker

INTRODUCTION = """\
# Security checks

What OWASP's standards, NIST SP 800-63B-4 and known CVEs ask of a session system, and the tests that prove each. This page is
made from the tests by `make docs`; a test fails where it is out of date, or where a check has no test. To run those of one
check: `pytest --security L7`.

**Sources.** ASVS: [Application Security Verification Standard 5.0](https://owasp.org/www-project-application-security-verification-standard/).
WSTG: [Web Security Testing Guide](https://owasp.org/www-project-web-security-testing-guide/), section Session Management. SM:
[Session Management Cheat Sheet](https://cheatsheetseries.owasp.org/cheatsheets/Session_Management_Cheat_Sheet.html). NIST:
[SP 800-63B-4](https://pages.nist.gov/800-63-4/sp800-63b.html). 6265bis:
[draft-ietf-httpbis-rfc6265bis](https://datatracker.ietf.org/doc/draft-ietf-httpbis-rfc6265bis/).
"""


def marked_tests(folder: Path = ROOT / "tests") -> dict[str, list[str]]:
    """By check, the tests that prove it, as ``path::name``, in the order of the files."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        name = path.relative_to(folder.parent).as_posix()
        of_module = [check for statement in tree.body for check in _of_assignment(statement)]
        for test, checks in _tests(tree.body, of_module):
            for check in dict.fromkeys(checks):
                found[check].append(f"{name}::{test}")
    return dict(found)


def _tests(body: list[ast.stmt], outer: list[str]) -> Iterator[tuple[str, list[str]]]:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _tests(statement.body, [*outer, *_of_decorators(statement.decorator_list)])
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name.startswith("test"):
            yield statement.name, [*outer, *_of_decorators(statement.decorator_list)]


def _of_assignment(statement: ast.stmt) -> list[str]:
    """The checks of ``pytestmark = ...`` for a whole file."""
    if isinstance(statement, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == "pytestmark" for t in statement.targets
    ):
        value = statement.value
        return _of_decorators(value.elts if isinstance(value, ast.List | ast.Tuple) else [value])
    return []


def _of_decorators(decorators: list[ast.expr]) -> list[str]:
    found: list[str] = []
    for one in decorators:
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.security":
            found += [argument.value for argument in one.args if isinstance(argument, ast.Constant)]
    return found


def page() -> str:
    """The whole page, as Markdown."""
    tests = marked_tests()
    parts = [INTRODUCTION]
    for group in GROUPS:
        rows = [
            f"| {check.id} | {check.asks} | {check.source} | {_named(tests.get(check.id, []))} |"
            for check in group.checks
        ]
        parts.append(
            "\n".join([f"## {group.title}\n", "| id | check | source | tests |", "|---|---|---|---|", *rows, ""])
        )
    parts += [_lifetimes(), _cookies(), _events()]
    return "\n".join(parts)


def _named(tests: list[str]) -> str:
    shown = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests[:SHOWN])
    more = f"<br>and {len(tests) - SHOWN} more" if len(tests) > SHOWN else ""
    return shown + more


def _lifetimes() -> str:
    policies = {"`Policy()`": Policy()}
    for level in (1, 2, 3):
        if (preset := getattr(Policy, f"nist_aal{level}", None)) is not None:
            policies[f"`Policy.nist_aal{level}()`"] = preset()
    rows = []
    for name, policy in policies.items():
        lives = (policy.idle, policy.absolute, policy.remember, policy.rotate_every)
        rows.append(f"| {name} | {' | '.join(_time(life) for life in lives)} |")
    return "\n".join(
        [
            "## Time-outs\n",
            "NIST asks for at most 30 days in all at assurance level 1; for 24 hours, and 1 hour without activity, at level 2; for",
            "12 hours, and 15 minutes without activity, at level 3. The default of `remember` is longer than that: set",
            "`remember=None` where a level has to be kept.\n",
            "| policy | idle | absolute | remembered | renewed |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _time(life: timedelta | float | None) -> str:
    if life is None:
        return "–"
    length = life if isinstance(life, timedelta) else timedelta(seconds=life)
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if length % unit == timedelta(0):
            count = length // unit
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{length.total_seconds():g} s"


def _cookies() -> str:
    kinds = (
        "Cookie()",
        "Cookie(domain='example.com')",
        "Cookie(samesite='none', partitioned=True)",
        "Cookie(secure=False)",
    )
    rows = []
    for kind in kinds:
        cookie: Cookie = eval(kind, {"Cookie": Cookie})
        attributes = cookie.delete_header()[1].decode().split("GMT; ")[1]
        rows.append(f"| `{kind}` | `{cookie.full_name}` | `{attributes}` |")
    return "\n".join(["## Cookies\n", "| setting | name | attributes |", "|---|---|---|", *rows, ""])


def _events() -> str:
    source = inspect.getsource(events.EventType)
    told = dict(re.findall(r'= "(\w+)"  # (?:noqa: \w+\s+)?(.*)', source))
    rows = [
        f"| `{kind.value}` | {told.get(kind.value, kind.name.lower().replace('_', ' '))} |"
        for kind in sessiondb.EventType
    ]
    return "\n".join(
        [
            "## Events\n",
            "Each is in the audit stream (`db.events()`) with its time, session, user, address and reason, and counted in",
            "`db.counters`; none holds a secret.\n",
            "| event | what happened |",
            "|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
