"""The Lua that guards every write of a session: on its one key, so that a change is atomic and works in a cluster.

A session is a hash: one field per column of the record, and one per key of its data (``d:theme``), each value as JSON.
Answers begin with 0 (gone, and why), 1 (conflict, and the whole hash) or 2 (applied, the revision and ``check_at``).

Each kind of change is decided first, which only reads, and fails if anything does; then it is written. So several can
be decided before the first of them is written.
"""

from __future__ import annotations

from sessiondb.core.record import CHANGE_ID_BYTES, REMEMBERED_CHANGES
from sessiondb.stores._redis_script import COMMON, GARBAGE_AFTER_MS, Script, script

_REMEMBERED = str(CHANGE_ID_BYTES * REMEMBERED_CHANGES)


class _Change:
    """The Lua of one kind of change: what decides it, by ``key`` and ``ARGV``, and what then writes it and answers."""

    def __init__(self, decide: str, write: str) -> None:
        garbage = str(GARBAGE_AFTER_MS)
        self._decide, self._write = (
            part.replace("REMEMBERED", _REMEMBERED).replace("GARBAGE", garbage) for part in (decide, write)
        )

    @property
    def alone(self) -> Script:
        """The script of this change alone."""
        return script(COMMON, "local key = KEYS[1]\n", self._decide, self._write)

    def named(self, verb: str) -> str:
        """The function ``verbs.NAME``: it answers, or returns ``nil`` and what writes and answers."""
        return f"verbs.{verb} = function(key, ARGV)\n{self._decide}return nil, function()\n{self._write}end\nend\n"


# Hard end, change id, secret hash, then fields and values.
_CREATE = _Change(
    """
local held = redis.call('HMGET', key, 'rev', 'secret_hash', 'last_changes')
if held[1] then
  if held[2] == ARGV[3] and (ARGV[2] == '' or string.find(held[3], ARGV[2], 1, true)) then
    return {2, held[1], '0'}
  end
  return {1, redis.call('HGETALL', key)}
end
local hard_end = tonumber(ARGV[1])
""",
    """
all('HSET', key, ARGV, 4)
expire(key, hard_end)
return {2, redis.call('HGET', key, 'rev'), '0'}
""",
)

# Id, touches, if_rev, if_secret, seen_at, client, confirmed_at, secret, salt, rotated_at, authenticated_at, auth, idle,
# absolute, lifetime, links, the number of keys to put, then those and their values, then the keys to remove. Empty: not
# asked for; a salt that is kept begins with '+'.
_UPDATE = _Change(
    """
local held = redis.call('HMGET', key, 'rev', 'ended_at', 'end_reason', 'last_changes', 'secret_hash', 'last_seen_at',
  'created_at', 'check_at', 'confirmed_at', 'salt')
if not held[1] then return {0, ''} end
local id = ARGV[1]
if string.find(held[4], id, 1, true) then return {2, held[1], '0', '', ''} end
if held[2] then return {0, held[3]} end
if (ARGV[3] ~= '' and ARGV[3] ~= held[1]) or (ARGV[4] ~= '' and ARGV[4] ~= held[5]) then
  return {1, redis.call('HGETALL', key)}
end
local set, n = {}, 0
local function put(field, value)
  set[n + 1], set[n + 2], n = field, value, n + 2
end
local rev, last_seen_at = held[1], tonumber(held[6])
if ARGV[5] ~= '' then
  local now = redis.call('TIME')
  last_seen_at = math.max(last_seen_at, math.min(tonumber(ARGV[5]), now[1] * 1000000 + now[2]))
  put('last_seen_at', text(last_seen_at))
end
if ARGV[6] ~= '' then put('client_last', ARGV[6]) end
if ARGV[2] ~= '1' then
  rev = text(tonumber(rev) + 1)
  put('rev', rev)
  put('last_changes', string.sub(id .. held[4], 1, REMEMBERED))
end
local confirms = ARGV[7] ~= '' and not held[9]
if confirms then put('confirmed_at', ARGV[7]) end
if ARGV[8] ~= '' then
  put('previous_hash', held[5])
  put('secret_hash', ARGV[8])
  put('salt', string.sub(ARGV[9], 2))
  put('rotated_at', ARGV[10])
end
local check_at, hard_end, links = '0', nil, ''
if ARGV[11] ~= '' then
  put('authenticated_at', ARGV[11])
  put('auth', ARGV[12])
  put('idle', ARGV[13])
  put('absolute', ARGV[14])
  put('lifetime', ARGV[15])
  hard_end = tonumber(held[7]) + tonumber(ARGV[14])
  check_at = text(math.min(tonumber(held[8]), hard_end, last_seen_at + tonumber(ARGV[13])))
  put('check_at', check_at)
  links = redis.call('HGET', key, 'links') or ''
  for link in string.gmatch(ARGV[16], '%S+') do
    if not string.find(links, link, 1, true) then links = (links == '' and '' or links .. ' ') .. link end
  end
  if ARGV[16] ~= '' then put('links', links) end
end
local last = 17 + 2 * tonumber(ARGV[17])
for at = 18, last, 2 do put(ARGV[at], ARGV[at + 1]) end
""",
    """
if confirms and held[10] ~= '' then redis.call('HDEL', key, 'salt') end
all('HSET', key, set, 1)
if hard_end then expire(key, hard_end) end
if ARGV[8] ~= '' then redis.call('HDEL', key, 'confirmed_at') end
all('HDEL', key, ARGV, last + 1)
return {2, rev, check_at, redis.call('HGET', key, 'user_id') or '', hard_end and text(hard_end) or '', links}
""",
)

# Id, if_rev, ended_at, reason, purge_at, check_at; or with them a user, a link (empty: any) and the caps of the
# policies (idle and absolute of the normal one, then the name, idle and absolute of each other): who is over already is
# then ended as expired, at that time, and without a reason nobody else is. This is the twin of Caps.deadline. Applied
# also tells check_at, user, reason, time, and the links if their lists would forget the tombstone before its purge.
_END = _Change(
    """
local held = redis.call('HMGET', key, 'rev', 'ended_at', 'end_reason', 'last_changes', 'user_id', 'lifetime',
  'created_at', 'last_seen_at', 'idle', 'absolute', 'links')
if not held[1] then return {0, ''} end
if held[2] then
  if string.find(held[4], ARGV[1], 1, true) then return {2, held[1], '0', held[5] or '', '', '', ''} end
  return {0, held[3]}
end
if ARGV[2] ~= '' and ARGV[2] ~= held[1] then return {1, redis.call('HGETALL', key)} end
local ended_at, reason = ARGV[3], ARGV[4]
local function number(value) return tonumber(value) or 0 end  -- damaged by somebody: over long since
if ARGV[9] then
  if ARGV[7] ~= '' and ARGV[7] ~= held[5] then return {0, ''} end
  if ARGV[8] ~= '' and not string.find(held[11] or '', ARGV[8], 1, true) then return {0, ''} end
  local at = 9
  for other = 11, #ARGV, 3 do
    if ARGV[other] == held[6] then at = other + 1 end
  end
  local idle_end = number(held[8]) + math.min(number(held[9]), tonumber(ARGV[at]))
  local hard_end = number(held[7]) + math.min(number(held[10]), tonumber(ARGV[at + 1]))
  local deadline = math.min(idle_end, hard_end)
  if deadline <= tonumber(ended_at) then
    ended_at = text(deadline)
    reason = deadline == hard_end and 'expired_absolute' or 'expired_idle'
  elseif reason == '' then
    return {0, ''}
  end
end
local rev = text(number(held[1]) + 1)
local changes = string.sub(ARGV[1] .. held[4], 1, REMEMBERED)
local drop = {'salt'}
for _, field in ipairs(redis.call('HKEYS', key)) do
  if string.sub(field, 1, 2) == 'd:' then drop[#drop + 1] = field end
end
local links = held[11] or ''
if tonumber(ARGV[5]) <= number(held[7]) + number(held[10]) + 1000 * GARBAGE then links = '' end
""",
    """
all('HDEL', key, drop, 1)
redis.call('HSET', key, 'rev', rev, 'ended_at', ended_at, 'end_reason', reason, 'check_at', ARGV[6],
  'purge_at', ARGV[5], 'last_changes', changes)
expire(key, tonumber(ARGV[5]))
return {2, rev, ARGV[6], held[5] or '', reason, ended_at, links}
""",
)

CREATE, UPDATE, END = _CREATE.alone, _UPDATE.alone, _END.alone

# The change that is called by the name of its script, and why it cannot be decided.
CHANGES = (
    COMMON
    + "local verbs = {}\n"
    + _CREATE.named("CREATE")
    + _UPDATE.named("UPDATE")
    + _END.named("END")
    + """
local function why(failure)
  failure = type(failure) == 'table' and failure.err or tostring(failure)
  return string.find(failure, '^%u+ ') and failure or 'ERR ' .. failure
end
"""
)

# Lone touches of many sessions. ARGV: for each its time and its client (empty: as before). Answers for each that was
# not touched its place among KEYS, then why it has ended (empty: it is not there), or '!' and why it cannot be read.
TOUCH = script(
    """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local missed = {}
for at, key in ipairs(KEYS) do
  local held = redis.pcall('HMGET', key, 'rev', 'ended_at', 'end_reason', 'last_seen_at')
  local client = ARGV[2 * at]
  if held.err or held[2] or not held[1] then
    missed[#missed + 1] = at
    missed[#missed + 1] = held.err and '!' .. held.err or held[3] or ''
  else
    local last, seen = tonumber(held[4]) or 0, math.min(tonumber(ARGV[2 * at - 1]), now)
    if seen > last then redis.call('HSET', key, 'last_seen_at', string.format('%.0f', seen)) end
    if client ~= '' then redis.call('HSET', key, 'client_last', client) end
  end
end
return missed
"""
)
