"""The Lua of histories of logins, counters and sheets, each of which goes with its key."""

from __future__ import annotations

from sessiondb.stores._redis_script import script
from sessiondb.stores.base import HISTORY_ENTRIES

# KEYS: a user's history. ARGV: until when (milliseconds), then entries, oldest first.
RECORD = script(
    """
for at = 2, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[at]) end
redis.call('LTRIM', KEYS[1], 0, MOST - 1)
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return 1
""".replace("MOST", str(HISTORY_ENTRIES))
)

# KEYS: a bucket. ARGV: until when (milliseconds), how many keys at most, then keys and what to add.
COUNT = script(
    """
local most = tonumber(ARGV[2])
local size = redis.call('HLEN', KEYS[1])
for at = 3, #ARGV, 2 do
  local is_there = size > 0 and redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1
  if is_there or size < most then
    redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
    if not is_there then size = size + 1 end
  end
end
if size > 0 then redis.call('PEXPIREAT', KEYS[1], ARGV[1]) end
return size
"""
)

# Sheets of one kind. KEYS: the list of their places by bucket, and that by the time when they go; then the sheets.
# ARGV: for each its place, bucket, milliseconds when it goes, and what is kept. Who is over leaves the lists.
PUBLISH = script(
    """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local latest = 0
for at = 3, #KEYS do
  local from = 4 * (at - 3)
  local place, bucket, ends, kept = ARGV[from + 1], ARGV[from + 2], ARGV[from + 3], ARGV[from + 4]
  redis.call('SET', KEYS[at], kept)
  redis.call('PEXPIREAT', KEYS[at], ends)
  redis.call('ZADD', KEYS[1], bucket, place)
  redis.call('ZADD', KEYS[2], ends, place)
end
for _, place in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100 + 2 * #KEYS)) do
  redis.call('ZREM', KEYS[1], place)
  redis.call('ZREM', KEYS[2], place)
end
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if last[2] then
  for at = 1, 2 do redis.call('PEXPIREAT', KEYS[at], string.format('%.0f', tonumber(last[2]) + 1)) end
end
return 1
"""
)

# KEYS: as PUBLISH. ARGV: the places.
WITHDRAW = script(
    """
for at = 3, #KEYS do
  redis.call('DEL', KEYS[at])
  redis.call('ZREM', KEYS[1], ARGV[at - 2])
  redis.call('ZREM', KEYS[2], ARGV[at - 2])
end
return 1
"""
)
