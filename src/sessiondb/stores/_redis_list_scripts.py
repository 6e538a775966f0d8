"""The Lua around sessions: sweeping, the limit per user, lists."""

from __future__ import annotations

from sessiondb.stores._redis_script import COMMON, GARBAGE_AFTER_MS, script

# Delete a tombstone whose time has come. ARGV: now. Answers its user and its links, or nil if it stays.
PURGE = script(
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
LATER = script(
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
SOONER = script(
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
ANNOUNCED = script(
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
LIMIT = script(
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
TEND = script(
    COMMON,
    """
local key = KEYS[1]
local now = redis.call('TIME')
local oldest = math.min(now[1] * 1000000, tonumber(ARGV[1])) - 1000 * GARBAGE
redis.call('ZREMRANGEBYSCORE', key, '-inf', text(oldest))
local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
if last[2] then expire(key, tonumber(last[2])) end
return 1
""".replace("GARBAGE", str(GARBAGE_AFTER_MS)),
)

# One worker's turn at sweeping. KEYS: the turn. ARGV: worker, now, until (microseconds).
TURN = script(
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
FORBID = script(
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

# A session of a user is deleted, living or ended. ARGV: the user. Answers its links, or nil if it is none of theirs;
# without a session there is nothing: an empty list.
FORGET = script(
    """
local held = redis.call('HMGET', KEYS[1], 'rev', 'user_id', 'links')
if not held[1] then return {} end
if held[2] ~= ARGV[1] then return false end
redis.call('DEL', KEYS[1])
return {held[3] or ''}
"""
)
