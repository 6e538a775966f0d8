"""What the Lua of the Redis and Valkey store has in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

# How long a key outlives what it is for, where nobody sweeps: collecting garbage is all that the TTL does.
GARBAGE_AFTER_MS = 8 * 86_400_000
# Fields and values: unpack() takes no more than 8000, and a session may have more keys. Even, as they come in pairs.
_AT_ONCE = 4000


@dataclass(frozen=True, slots=True)
class Script:
    """Lua, and the name that the server gives it."""

    text: str
    sha: str


def script(*parts: str) -> Script:
    """The script that ``parts`` make, one behind the other."""
    text = "".join(parts)
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324  as EVALSHA names it


# Numbers in Lua are doubles: exact for microseconds, but tostring() would round them.
COMMON = """
local function text(number) return string.format('%.0f', number) end
local function expire(key, at)
  local now = redis.call('TIME')
  local ms = now[1] * 1000
  redis.call('PEXPIREAT', key, text(math.max(math.floor(at / 1000), ms) + GARBAGE))
end
local function all(command, key, values, first)
  for at = first, #values, AT_ONCE do
    redis.call(command, key, unpack(values, at, math.min(at + AT_ONCE - 1, #values)))
  end
end
""".replace("GARBAGE", str(GARBAGE_AFTER_MS)).replace("AT_ONCE", str(_AT_ONCE))
