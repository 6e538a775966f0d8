"""The Lua that guards every write: one script, one key, so that a change is atomic and works in a cluster.

A session is a hash: one field per column of the record, and one per key of its data (``d:theme``), each value as JSON.
Answers begin with 0 (gone, and why), 1 (conflict, and the whole hash) or 2 (applied, the revision and ``check_at``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sessiondb.core.record import CHANGE_ID_BYTES, REMEMBERED_CHANGES

REMEMBERED = CHANGE_ID_BYTES * REMEMBERED_CHANGES
# How long a key outlives what it is for, where nobody sweeps: collecting garbage is all that the TTL does.
GARBAGE_AFTER_MS = 8 * 86_400_000
# Fields and values: unpack() takes no more than 8000, and a session may have more keys. Even, as they come in pairs.
_AT_ONCE = 4000


@dataclass(frozen=True, slots=True)
class Script:
    """Lua, and the name that the server gives it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324  as EVALSHA names it


# Numbers in Lua are doubles: exact for microseconds, but tostring() would round them.
_COMMON = """
local key = KEYS[1]
local function text(number) return string.format('%.0f', number) end
local function expire(at)
  local now = redis.call('TIME')
  local ms = now[1] * 1000
  redis.call('PEXPIREAT', key, text(math.max(math.floor(at / 1000), ms) + GARBAGE))
end
local function all(command, values, first)
  for at = first, #values, AT_ONCE do
    redis.call(command, key, unpack(values, at, math.min(at + AT_ONCE - 1, #values)))
  end
end
""".replace("GARBAGE", str(GARBAGE_AFTER_MS)).replace("AT_ONCE", str(_AT_ONCE))

# ARGV: hard end, change id, secret hash, then fields and values.
CREATE = _script(
    _COMMON
    + """
local held = redis.call('HMGET', key, 'rev', 'secret_hash', 'last_changes')
if held[1] then
  if held[2] == ARGV[3] and (ARGV[2] == '' or string.find(held[3], ARGV[2], 1, true)) then
    return {2, held[1], '0'}
  end
  return {1, redis.call('HGETALL', key)}
end
all('HSET', ARGV, 4)
expire(tonumber(ARGV[1]))
return {2, redis.call('HGET', key, 'rev'), '0'}
"""
)

# ARGV: id, touches, if_rev, if_secret, seen_at, client, confirmed_at, secret, salt, rotated_at,
# authenticated_at, auth, idle, absolute, lifetime, links, the number of keys to put, then those and their values, then
# the keys to remove. Empty: not asked for; a salt that is kept begins with '+'.
UPDATE = _script(
    _COMMON
    + """
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
if ARGV[7] ~= '' and not held[9] then
  put('confirmed_at', ARGV[7])
  if held[10] ~= '' then redis.call('HDEL', key, 'salt') end
end
if ARGV[8] ~= '' then
  put('previous_hash', held[5])
  put('secret_hash', ARGV[8])
  put('salt', string.sub(ARGV[9], 2))
  put('rotated_at', ARGV[10])
end
local check_at, listed, links = '0', '', ''
if ARGV[11] ~= '' then
  put('authenticated_at', ARGV[11])
  put('auth', ARGV[12])
  put('idle', ARGV[13])
  put('absolute', ARGV[14])
  put('lifetime', ARGV[15])
  local hard_end = tonumber(held[7]) + tonumber(ARGV[14])
  check_at = text(math.min(tonumber(held[8]), hard_end, last_seen_at + tonumber(ARGV[13])))
  put('check_at', check_at)
  expire(hard_end)
  listed = text(hard_end)
  links = redis.call('HGET', key, 'links') or ''
  for link in string.gmatch(ARGV[16], '%S+') do
    if not string.find(links, link, 1, true) then links = (links == '' and '' or links .. ' ') .. link end
  end
  if ARGV[16] ~= '' then put('links', links) end
end
local last = 17 + 2 * tonumber(ARGV[17])
for at = 18, last, 2 do put(ARGV[at], ARGV[at + 1]) end
all('HSET', set, 1)
if ARGV[8] ~= '' then redis.call('HDEL', key, 'confirmed_at') end
all('HDEL', ARGV, last + 1)
return {2, rev, check_at, redis.call('HGET', key, 'user_id') or '', listed, links}
""".replace("REMEMBERED", str(REMEMBERED))
)

# Lone touches of many sessions. ARGV: for each its time and its client (empty: as before). Answers for each that was
# not touched its place among KEYS, then why it has ended (empty: it is not there), or '!' and why it cannot be read.
TOUCH = _script(
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

# ARGV: id, if_rev, ended_at, reason, purge_at, check_at; or with them a user, a link (empty: any) and the caps of the
# policies (idle and absolute of the normal one, then the name, idle and absolute of each other): who is over already is
# then ended as expired, at that time, and without a reason nobody else is. This is the twin of Caps.deadline. Applied
# also tells check_at, user, reason, time, and the links if their lists would forget the tombstone before its purge.
END = _script(
    _COMMON
    + """
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
local drop = {'salt'}
for _, field in ipairs(redis.call('HKEYS', key)) do
  if string.sub(field, 1, 2) == 'd:' then drop[#drop + 1] = field end
end
all('HDEL', drop, 1)
redis.call('HSET', key, 'rev', rev, 'ended_at', ended_at, 'end_reason', reason, 'check_at', ARGV[6],
  'purge_at', ARGV[5], 'last_changes', string.sub(ARGV[1] .. held[4], 1, REMEMBERED))
expire(tonumber(ARGV[5]))
local links = held[11] or ''
if tonumber(ARGV[5]) <= number(held[7]) + number(held[10]) + 1000 * GARBAGE then links = '' end
return {2, rev, ARGV[6], held[5] or '', reason, ended_at, links}
""".replace("REMEMBERED", str(REMEMBERED)).replace("GARBAGE", str(GARBAGE_AFTER_MS))
)

# Delete a tombstone whose time has come. ARGV: now. Answers its user and its links, or nil if it stays.
PURGE = _script(
    """
local held = redis.call('HMGET', KEYS[1], 'ended_at', 'purge_at', 'check_at', 'user_id', 'links')
if held[1] and tonumber(held[2] or held[3]) <= tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  return {held[4] or '', held[5] or ''}
end
return false
"""
)

# Look at a session later. ARGV: the check_at that was read, the new one, and whether it has ended (1 or 0). Never later
# than somebody has asked for meanwhile; and of several who read the same only one is answered 1.
LATER = _script(
    """
local held = redis.call('HMGET', KEYS[1], 'rev', 'ended_at', 'check_at')
if held[1] and held[3] == ARGV[1] and (held[2] and '1' or '0') == ARGV[3] then
  redis.call('HSET', KEYS[1], 'check_at', ARGV[2])
  return 1
end
return 0
"""
)

# Look at a living session no later than at ARGV: the time. Answers 1 if that is sooner than it would have been.
SOONER = _script(
    """
local held = redis.call('HMGET', KEYS[1], 'rev', 'ended_at', 'check_at')
if held[1] and not held[2] and tonumber(held[3]) > tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'check_at', ARGV[1])
  return 1
end
return 0
"""
)

# The end of a session has been announced: look at its tombstone when it is to be purged. Answers that time, or nil.
ANNOUNCED = _script(
    """
local held = redis.call('HMGET', KEYS[1], 'ended_at', 'purge_at', 'check_at')
if held[1] and held[2] and tonumber(held[3]) < tonumber(held[2]) then
  redis.call('HSET', KEYS[1], 'check_at', held[2])
  return held[2]
end
return false
"""
)

# The limit per user, decided on the user's list alone, so that concurrent logins take turns.
# KEYS: the list of the user's sessions and that of the ended. ARGV: the login, how many may stay, whether it is refused
# itself, the time of the purge, then its living rivals with the first to go first. Who has to go is listed as ended,
# for as long as it could live: whoever asks may die before it ends them.
# Answers 0 if the login has been pushed out already, else 1 and who has to go.
LIMIT = _script(
    """
local own, most = ARGV[1], tonumber(ARGV[2])
if not redis.call('ZSCORE', KEYS[1], own) then return {0} end
local listed = {}
for at = 5, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[at]) then listed[#listed + 1] = ARGV[at] end
end
local leave = {1}
for at = 1, #listed - most do
  if ARGV[3] ~= '1' or listed[at] == own then leave[#leave + 1] = listed[at] end
end
for at = 2, #leave do
  local hard_end = tonumber(redis.call('ZSCORE', KEYS[1], leave[at]))
  redis.call('ZREM', KEYS[1], leave[at])
  redis.call('ZADD', KEYS[2], string.format('%.0f', math.max(hard_end, tonumber(ARGV[4]))), leave[at])
end
return leave
"""
)

# After an entry was added to the list of a link. ARGV: about now (its clock may be another one). Whoever must have been
# purged leaves it, and the server is to collect it behind its last entry.
TEND = _script(
    _COMMON
    + """
local now = redis.call('TIME')
local oldest = math.min(now[1] * 1000000, tonumber(ARGV[1])) - 1000 * GARBAGE
redis.call('ZREMRANGEBYSCORE', key, '-inf', text(oldest))
local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
if last[2] then expire(tonumber(last[2])) end
return 1
""".replace("GARBAGE", str(GARBAGE_AFTER_MS))
)

# One worker's turn at sweeping. KEYS: the turn. ARGV: worker, now, until (microseconds).
TURN = _script(
    """
local held = redis.call('HMGET', KEYS[1], 'worker', 'until')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'worker', ARGV[1], 'until', ARGV[3])
return 1
"""
)

# The latest not_before stays. KEYS: the user's, and lists of the user's sessions or none. ARGV: microseconds,
# milliseconds to keep it, and 1 for the earliest to stay. Answers all who are listed: another command could be done
# before this script is known.
FORBID = _script(
    """
local held = redis.call('GET', KEYS[1])
local later = held and tonumber(held) - tonumber(ARGV[1])
if not later or (ARGV[3] == '1' and later > 0) or (ARGV[3] == '0' and later < 0) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local found = {}
for at = 2, #KEYS do
  for _, sid in ipairs(redis.call('ZRANGE', KEYS[at], 0, -1)) do found[#found + 1] = sid end
end
return found
"""
)

ALL = {
    script.sha.encode(): script
    for script in (CREATE, UPDATE, TOUCH, END, PURGE, LATER, SOONER, ANNOUNCED, LIMIT, TEND, TURN, FORBID)
}
