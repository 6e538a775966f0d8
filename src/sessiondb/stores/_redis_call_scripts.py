"""The Lua of calls that bring events: on one server a call is one script, in a cluster it is prepared before it counts.

See ``_redis_together`` and ``_redis_calls``.
"""

from __future__ import annotations

from sessiondb.stores._redis_change_scripts import CHANGES
from sessiondb.stores._redis_script import COMMON, GARBAGE_AFTER_MS, script
from sessiondb.stores._redis_trail_scripts import SEALED

# All of a call, or nothing of it. KEYS: for each change its session, then the lists that must name it; then those of
# SEALED. ARGV: how many changes; for each its sid, verb, how many lists, how many arguments, and those; then those of
# SEALED. Answers what became of the events (see SEALED), then of each change; where something is in the way, that is
# all that is done: then 'refused' and for each change why it cannot be written (empty: it could).
TOGETHER = script(
    CHANGES,
    SEALED,
    """
local k, v = 1, 2
local answers, writes, refused = {'ok'}, {}, {'refused'}
for at = 2, tonumber(ARGV[1]) + 1 do
  local key, lists, count = KEYS[k], tonumber(ARGV[v + 2]), tonumber(ARGV[v + 3])
  local own = {}
  for place = 1, count do own[place] = ARGV[v + 3 + place] end
  local fine, answer, write = pcall(function()
    for list = k + 1, k + lists do
      if not redis.call('ZSCORE', KEYS[list], ARGV[v]) then error({err = 'UNLISTED ' .. KEYS[list]}) end
    end
    return verbs[ARGV[v + 1]](key, own)
  end)
  answers[at], writes[at], refused[at] = answer, write, ''
  if not fine then refused[1], refused[at] = 'failed', why(answer) end
  k, v = k + 1 + lists, v + 4 + count
end
if refused[1] == 'failed' then
  refused[1] = 'refused'
  return refused
end
local problem, append = sealed(k, v)
if problem then return problem end
-- First: for want of memory only the first write fails.
answers[1] = append()
for at, write in pairs(writes) do answers[at] = write() end
return answers
""",
)

# A call begins. KEYS: those that have. ARGV: its name, and for how long nobody else is to look at it (microseconds).
BEGIN = script(
    COMMON,
    """
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], text(now[1] * 1000000 + now[2] + tonumber(ARGV[2])), ARGV[1])
return 1
""",
)

# A change is laid down beside its session. KEYS: the session, and where. ARGV: the verb, then its arguments. Fails
# where it could not be made.
PREPARE = script(
    CHANGES,
    """
local own = {}
for at = 2, #ARGV do own[at - 1] = ARGV[at] end
local fine, failure = pcall(verbs[ARGV[1]], KEYS[1], own)
if not fine then return redis.error_reply(why(failure)) end
all('RPUSH', KEYS[2], ARGV, 1)
redis.call('PEXPIRE', KEYS[2], GARBAGE)
return 1
""".replace("GARBAGE", str(GARBAGE_AFTER_MS)),
)

# From now on a call counts, all of it. KEYS: the calls that have begun, those that count, then those of SEALED. ARGV:
# its name, for how long nobody else is to look at it (microseconds), then those of SEALED. Answers what became of the
# events; 'late' if somebody has given it up already.
COMMIT = script(
    SEALED,
    """
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {'ok', 0, 0} end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {'late'} end
local problem, append = sealed(3, 3)
if problem then return problem end
local answer = append()
local now = redis.call('TIME')
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], text(now[1] * 1000000 + now[2] + tonumber(ARGV[2])), ARGV[1])
return answer
""",
)

# The change that was laid down is made. KEYS: as PREPARE. Answers as the change does; {3} if there is none.
FINISH = script(
    CHANGES,
    """
local own = redis.call('LRANGE', KEYS[2], 0, -1)
if #own == 0 then return {3} end
local answer, write = verbs[table.remove(own, 1)](KEYS[1], own)
-- First: what frees memory is never refused, and then nothing else is.
redis.call('DEL', KEYS[2])
if write then return write() end
return answer
""",
)

# A call that does not count is given up. KEYS: the calls that have begun, those that count. ARGV: its name. Answers 1
# if it was, 2 if it counts, 0 if nobody knows it.
GIVE_UP = script(
    """
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 2 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""
)
