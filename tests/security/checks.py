"""The security checks that apply to a session system, in words and with their sources.

ASVS is OWASP's Application Security Verification Standard 5.0, WSTG its Web Security Testing Guide (SESS-01 to 11), SM its
Session Management Cheat Sheet; NIST is SP 800-63B-4; 6265bis the cookie specification. CVEs are cases where others failed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check: its id, what is asked, and who asks for it."""

    id: str
    asks: str
    source: str


@dataclass(frozen=True)
class Group:
    """Checks of one subject."""

    title: str
    checks: tuple[Check, ...]


GROUPS = (
    Group(
        "Token",
        (
            Check(
                "T1",
                "A token has at least 128 random bits from the operating system, a fixed length, and shows no bias.",
                "ASVS 7.2.3, 11.5.1; NIST 5.1; SM; WSTG-SESS-01",
            ),
            Check(
                "T2",
                "A token says nothing: no part of its secrets depends on user, time or role.",
                "SM (content); NIST 5.1.1; WSTG-SESS-01",
            ),
            Check(
                "T3",
                "Only digests are stored: no database holds a token that could be used.",
                "ASVS 16.2.5; CVE-2019-16782, CVE-2019-25025",
            ),
            Check(
                "T4",
                "Sessions are looked up by a public id, and secrets compared in constant time.",
                "CVE-2019-16782, CVE-2013-0263",
            ),
            Check(
                "T5",
                "A malformed token is an anonymous visitor, and no database is asked.",
                "SM (untrusted input); CVE-2008-0252, CVE-2011-0698, CVE-2020-13254",
            ),
            Check(
                "T6",
                "An unknown token is never adopted: whoever writes next gets a new one.",
                "SM (strict mode); WSTG-SESS-03; CVE-2018-1000519",
            ),
            Check(
                "T7",
                "Tokens of different purposes never stand in for each other.",
                "WSTG-SESS-08",
            ),
            Check(
                "T8",
                "A token is read from the cookie, or from a header that the app has enabled, and from nowhere else.",
                "ASVS 14.2.1; SM (used and accepted); WSTG-SESS-04; CVE-2020-7932",
            ),
            Check(
                "T9",
                "The public id, shown on pages and in logs, opens nothing and cannot be turned into a token.",
                "ASVS 7.5.2; CVE-2020-5224",
            ),
        ),
    ),
    Group(
        "Cookie",
        (
            Check(
                "C1",
                "By default: a generic name with the prefix __Host-, Secure, HttpOnly, Path=/, SameSite=Lax, no Domain.",
                "ASVS 3.3.1, 3.3.3, 3.3.4; NIST 5.1.1; WSTG-SESS-02",
            ),
            Check(
                "C2",
                "Settings that break the rules of a prefix, in whatever case, fail at start-up.",
                "6265bis 4.1.3, 5.4",
            ),
            Check("C3", "A real browser keeps the cookie and enforces its prefix.", "6265bis 4.1.3"),
            Check(
                "C4",
                "The raw header is parsed: names equal byte for byte, only space and tab stripped, nothing decoded.",
                "6265bis 4.2.1; CVE-2023-23934, CVE-2016-7401, GHSA-j6w9-fv6q-3q52",
            ),
            Check(
                "C5",
                "Look-alikes, quotes, attributes and nameless cookies never stand in for the session's.",
                "6265bis 5.6; CVE-2022-31629, CVE-2023-26049",
            ),
            Check(
                "C6",
                "Two living sessions in one request are nobody's, and counted; a look-alike name is ignored, and counted.",
                "6265bis 4.2.2 (cookie tossing)",
            ),
            Check(
                "C7",
                "SameSite=None and Partitioned need Secure; anything else fails at start-up.",
                "6265bis 5.6; CHIPS",
            ),
            Check(
                "C8",
                "A cookie has at most 4096 bytes, and lives at most 400 days.",
                "ASVS 3.3.5; 6265bis 5.5, 5.6",
            ),
            Check(
                "C9",
                "Name, path and domain cannot carry a header injection: they fail at start-up.",
                "CWE-113; CVE-2024-47764",
            ),
            Check(
                "C10",
                "Deleting repeats prefix, path, domain and flags, so that the browser's jar is empty.",
                "WSTG-SESS-06",
            ),
            Check(
                "C11",
                "A cookie outlives the browser only if the login was to be remembered; the server enforces every expiry.",
                "NIST 5.1.1; CVE-2018-1000814",
            ),
            Check(
                "C12",
                "Over plain http a secure session is not silently weakened: the cookie stays Secure, and a log line says so.",
                "NIST 5.1; WSTG-SESS-09",
            ),
        ),
    ),
    Group(
        "Life cycle",
        (
            Check(
                "L1",
                "Login, re-authentication, step-up and impersonation bring a new secret; the old one is dead at once.",
                "ASVS 7.2.4; SM (renewal); WSTG-SESS-03; CVE-2022-25896, CVE-2023-29019, CVE-2022-38054",
            ),
            Check(
                "L2",
                "What a login carries over can be narrowed to named keys; another user's data never comes along.",
                "CVE-2023-29020; WSTG-SESS-08",
            ),
            Check(
                "L3",
                "Idle, absolute and renewal time-outs are enforced by the server, by the database's clock.",
                "ASVS 7.3.1, 7.3.2; SM; NIST 5.2; WSTG-SESS-07",
            ),
            Check(
                "L4",
                "Presets keep the limits of the assurance levels: activity moves the idle deadline alone.",
                "NIST 2.1.3, 2.2.3, 2.3.3, 5.2",
            ),
            Check(
                "L5",
                "No policy is endless, and a session's assurance level is never above that of its login.",
                "NIST 2, 5.1",
            ),
            Check(
                "L6",
                "Logout ends the session in the database: a kept cookie opens nothing.",
                "ASVS 7.4.1, 14.3.1; WSTG-SESS-06",
            ),
            Check(
                "L7",
                "A request in flight cannot undo a logout: not by saving, touching or rotating.",
                "the third law of this project; measured in peers",
            ),
            Check(
                "L8",
                "One session, all of a user, all others, all of everybody can be revoked, in every process and socket.",
                "ASVS 7.4.2, 7.4.3, 7.4.5, 7.5.2; CVE-2023-40273, CVE-2022-2888",
            ),
            Check(
                "L9",
                "The limit of sessions per user holds under concurrent logins: the oldest goes, or the login is refused.",
                "ASVS 7.1.2; SM; WSTG-SESS-11",
            ),
            Check(
                "L10",
                "Sensitive pages can ask for a recent login and an assurance level, which expires.",
                "ASVS 7.5.1, 7.5.3; SM (re-authentication)",
            ),
            Check(
                "L11",
                "A login over another user's session takes over nothing of it.",
                "CVE-2014-0482",
            ),
            Check(
                "L12",
                "Expired sessions disappear by themselves, and never one that was used meanwhile.",
                "ASVS 7.4.1",
            ),
            Check(
                "L13",
                "A logout stores no empty session, and two visitors who are logged out never share one.",
                "CVE-2015-3982",
            ),
        ),
    ),
    Group(
        "Store",
        (
            Check("S1", "Concurrent writers lose nothing: 100 increments make 100.", "the second law of this project"),
            Check("S2", "Every key, table and index carries a prefix of its own.", "CVE-2011-4136"),
            Check("S3", "No input becomes a part of a statement or an operator of a query.", "CWE-89, CWE-943"),
            Check(
                "S4",
                "Cancelled requests never let a reply reach another user.",
                "CVE-2023-28858, CVE-2023-28859",
            ),
            Check(
                "S5",
                "With the database away, whoever needs a session gets 503 without a stack trace, never stale rights.",
                "ASVS 16.5.1 to 16.5.3",
            ),
            Check("S6", "What was changed is stored before the response can be seen.", "the sixth law of this project"),
            Check("S7", "A worker with a wrong clock neither ends nor revives a session.", "ASVS 16.2.2"),
            Check("S8", "Passwords in database URLs appear in no log, repr or message.", "ASVS 16.2.5"),
        ),
    ),
    Group(
        "HTTP, caches and other sites",
        (
            Check(
                "H1",
                "A response that depends on the session says so to caches, however the session was read.",
                "CVE-2026-27205, CVE-2023-30861, CVE-2014-1418",
            ),
            Check(
                "H2",
                "A response that sets the cookie is stored by no cache.",
                "ASVS 14.2.2, 14.3.2; WSTG-SESS-04",
            ),
            Check(
                "H3",
                "A cookie is set only where it changed, and a late response never replaces a newer one.",
                "SM (cookie handling)",
            ),
            Check("H4", "Headers of the app are kept, and the cookie is never set twice.", "RFC 9110 5.3"),
            Check(
                "W1",
                "Unsafe requests of other sites are refused: by their headers, or by a token bound to the session.",
                "ASVS 3.5.1 to 3.5.3; NIST 5.1; WSTG-SESS-05; CVE-2021-32677",
            ),
            Check("W2", "Login and logout are protected from other sites too.", "ASVS 3.5"),
            Check(
                "W3",
                "WebSockets of other sites are refused, and open ones closed when the session ends.",
                "CSWSH; ASVS 4.4.2",
            ),
        ),
    ),
    Group(
        "Keys, data and abuse",
        (
            Check(
                "K1",
                "Nothing is ever unpickled; what cannot be stored is refused when written; decoding has limits.",
                "ASVS 1.5.2; CVE-2021-33026, CVE-2019-17206, CVE-2025-24813",
            ),
            Check(
                "K2",
                "Encryption at rest is authenticated, and a value moved to another row or key is refused.",
                "ASVS 14.2.4; CVE-2012-3458",
            ),
            Check("K3", "What cannot be decrypted is refused, never read as plain.", "CVE-2026-39324"),
            Check(
                "K4",
                "The newest key encrypts, older ones only decrypt, and a retired one is refused.",
                "CVE-2025-47278",
            ),
            Check("K5", "Short, guessable and published keys are refused.", "CVE-2023-27524"),
            Check("K6", "No repr, error page or log shows what a session holds.", "CVE-2020-15105"),
            Check(
                "D1",
                "Reading, or logging out of, no session makes no row and no cookie.",
                "CVE-2015-5143, CVE-2015-5963, CVE-2015-5964",
            ),
            Check(
                "D2",
                "Bytes and keys of a session, sessions of a user, and new sessions of a network have limits.",
                "WSTG-SESS-11; CVE-2015-5143",
            ),
            Check("D3", "A huge cookie header costs linear time, a long user agent is cut.", "CVE-2024-7592"),
            Check("D4", "However often a session is used, it is marked as seen at most once a minute.", "the design"),
            Check(
                "O1",
                "Every decision leaves an event or a count, without a token and without raw line breaks.",
                "ASVS 16.2 to 16.4; SM (logging)",
            ),
            Check(
                "O2",
                "Time-outs, cookie attributes and events are documented from the running defaults.",
                "ASVS 7.1.1 to 7.1.3, 16.1.1",
            ),
        ),
    ),
    Group(
        "Watched",
        (
            Check(
                "A1",
                "Whoever can write to the database changes, deletes, inserts, moves or cuts off no event unseen.",
                "ASVS 16.4.2; NIST SP 800-92 5.4; RFC 9162",
            ),
            Check(
                "A2",
                "Where the audit is required, no change lands without its event, whatever is killed in between.",
                "ASVS 16.3.1 to 16.3.3, 16.5.2",
            ),
            Check(
                "A3",
                "A person can be erased from sessions, events and statistics, and the trail stays sound.",
                "GDPR articles 5 and 17; ASVS 14.2.7",
            ),
            Check(
                "A4",
                "No token, password or session data reaches an event, a log, an alert or a webhook.",
                "ASVS 16.2.5; SM (logging)",
            ),
            Check(
                "A5",
                "The client's address is taken from a header by an explicit rule alone, and never from what a client adds.",
                "ASVS 4.1.3, 16.2.1; SM (logging)",
            ),
            Check(
                "A6",
                "A session that another browser uses is noticed, and ended where the policy says so before a page sees it.",
                "ASVS 7.2.4; WSTG-SESS-09; SM (binding to other properties)",
            ),
            Check(
                "A7",
                "Guessed passwords are seen across workers: of one user, from one network, and of many from many.",
                "ASVS 6.3.1; NIST SP 800-63B-4 3.2.2; OWASP OAT-007, OAT-008",
            ),
            Check(
                "A8",
                "A login unlike the user's others is told with its reasons, and the user can be told in words.",
                "NIST SP 800-63B-4 3.2.2, 4.6; ASVS 6.3.5",
            ),
        ),
    ),
)
