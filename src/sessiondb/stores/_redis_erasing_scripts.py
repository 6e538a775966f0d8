"""The Lua that overwrites and deletes events of the audit trail, and mends it; see ``_redis_trail_scripts``."""

from __future__ import annotations

from sessiondb.stores._redis_script import script
from sessiondb.stores._redis_trail_scripts import BLOCK, NUMBERS

# Another value in the place of an event, if it is as it was read. KEYS: its block, and the lists of names that it
# leaves. ARGV: its place in the block, the value that was read, the new one, its number.
REPLACE = script(
    """
if redis.call('LINDEX', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('LSET', KEYS[1], ARGV[1], ARGV[3])
for at = 2, #KEYS do redis.call('LREM', KEYS[at], 1, ARGV[4]) end
return 1
"""
)

# An empty block goes, unless the next event comes there.
_TIDY = """
local function is_empty(key)
  for at = 0, BLOCK - 1, 16 do
    for _, value in ipairs(redis.call('LRANGE', key, at, at + 15)) do
      if value ~= '' then return false end
    end
  end
  return true
end
local function tidy(state, blocks, key, name)
  if tonumber(name) ~= block_of(tonumber(redis.call('HGET', state, 'next') or 0)) and is_empty(key) then
    redis.call('DEL', key)
    redis.call('ZREM', blocks, name)
  end
end
""".replace("BLOCK", str(BLOCK))

# KEYS: state, blocks, a block. ARGV: its number.
TIDY = script(
    NUMBERS,
    _TIDY,
    """
tidy(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
return 1
""",
)

# Deletes events of one stream. KEYS: state, blocks, the streams, the list of this one, then blocks, then lists of
# names. ARGV: the name of the stream, 1 if they have to go for want of room, how many blocks and their numbers; then
# for each event its seq and number, its block and up to three lists of names (0: none), by their places here. Answers
# how many there were.
DELETE = script(
    NUMBERS,
    _TIDY,
    """
local state, blocks, streams, list = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stream, block_count = ARGV[1], tonumber(ARGV[3])
local base = tonumber(redis.call('HGET', streams, stream) or nil)
if not base then return 0 end
local gone, touched = 0, {}
for at = block_count + 4, #ARGV, 6 do
  local index, number, block = tonumber(ARGV[at]) - base, ARGV[at + 1], tonumber(ARGV[at + 2])
  if index >= 0 and redis.call('LINDEX', list, index) == number then
    redis.call('LSET', list, index, '')
    if redis.call('LINDEX', KEYS[4 + block], tonumber(number) % BLOCK) then
      redis.call('LSET', KEYS[4 + block], tonumber(number) % BLOCK, '')
    end
    for offset = 3, 5 do
      local names = tonumber(ARGV[at + offset])
      if names > 0 then redis.call('LREM', KEYS[4 + block_count + names], 1, number) end
    end
    gone, touched[block] = gone + 1, true
  end
end
if gone == 0 then return 0 end
-- A stream begins and ends with an event.
local first = 0
while redis.call('LINDEX', list, first) == '' do first = first + 1 end
redis.call('LTRIM', list, first, -1)
while redis.call('LINDEX', list, -1) == '' do redis.call('RPOP', list) end
if redis.call('LLEN', list) == 0 then
  redis.call('HDEL', streams, stream)
else
  redis.call('HSET', streams, stream, text(base + first))
end
redis.call('HINCRBY', state, 'count', -gone)
if ARGV[2] == '1' then redis.call('HINCRBY', state, 'dropped', gone) end
for block in pairs(touched) do tidy(state, blocks, KEYS[4 + block], ARGV[3 + block]) end
return gone
""".replace("BLOCK", str(BLOCK)),
)

# After a loss of data. KEYS: state, blocks, the streams, the list of one. ARGV: its name, the seq of its first event
# (empty: not known). A list that nobody knows the beginning of is of no use, and neither is a beginning without a list.
MEND_STREAM = script(
    """
if redis.call('LLEN', KEYS[4]) == 0 then
  redis.call('HDEL', KEYS[3], ARGV[1])
elseif ARGV[2] ~= '' then
  redis.call('HSETNX', KEYS[3], ARGV[1], ARGV[2])
end
return 1
"""
)

# After a loss of data. KEYS: state, blocks. ARGV: how many events were counted, what the count was before, and the
# blocks that there are.
MEND_BLOCKS = script(
    NUMBERS,
    """
local last = tonumber(redis.call('HGET', KEYS[1], 'next') or 0)
for at = 3, #ARGV do
  redis.call('ZADD', KEYS[2], ARGV[at], ARGV[at])
  if block_of(last) < tonumber(ARGV[at]) then last = (tonumber(ARGV[at]) + 1) * BLOCK end
end
redis.call('HSET', KEYS[1], 'next', text(last))
redis.call('HINCRBY', KEYS[1], 'count', tonumber(ARGV[1]) - tonumber(ARGV[2]))
return 1
""".replace("BLOCK", str(BLOCK)),
)
