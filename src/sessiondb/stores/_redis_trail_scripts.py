"""The Lua of the audit trail, all of whose keys are in one slot.

Events have numbers, in the order in which they came, and are kept in lists of ``BLOCK``: that of the number is at
``number % BLOCK`` in the list ``number / BLOCK``, and is overwritten there when it is blanked (empty: it is gone). A
stream is a list of numbers, of which the first is that of its lowest ``seq`` (empty: that event is not there). A few
lists of numbers name events by what they are about; see ``_redis_trail``.
"""

from __future__ import annotations

from sessiondb.stores._redis_script import script

BLOCK = 128
MOST_AHEAD = 10_000  # how far from the others of its stream an event may be: what is between takes memory, too

NUMBERS = """
local function text(number) return string.format('%.0f', number) end
local function block_of(number) return math.floor(number / BLOCK) end
""".replace("BLOCK", str(BLOCK))

# Reads what is needed to write the events that ARGV has from ``v`` on into KEYS from ``k`` on. Returns a problem, or
# nil and what writes and answers. KEYS: state, blocks, the streams, then a list for each stream, then lists of names.
# ARGV: what the keys of blocks begin with, 1 if no place may be taken by another event (else what is there is left as
# it is), the numbers of streams and of events, the names of the streams; then for each event its
# stream, seq, value and up to three lists of names (0: none), by their places here. Problems: 'taken' or 'far', stream,
# seq; or 'odd': a part of the trail is missing, or moves. The answer is how many events were written, and how many
# there are.
SEALED = (
    NUMBERS
    + """
local function sealed(k, v)
  local state, blocks, streams = KEYS[k], KEYS[k + 1], KEYS[k + 2]
  local prefix, strict = ARGV[v], ARGV[v + 1] == '1'
  local stream_count, event_count = tonumber(ARGV[v + 2]), tonumber(ARGV[v + 3])
  local first_list, first_names, names_at, events_at = k + 2, k + 2 + stream_count, v + 3, v + 3 + stream_count
  local held = redis.call('HMGET', state, 'next', 'count')
  local count = tonumber(held[2] or 0)
  local base, length = {}, {}
  for at = 1, stream_count do
    base[at] = tonumber(redis.call('HGET', streams, ARGV[names_at + at]) or nil)
    length[at] = redis.call('LLEN', KEYS[first_list + at])
    if not base[at] ~= (length[at] == 0) then return {'odd'} end
  end
  -- Where the next ones go: behind a block that is not as it was left.
  local number = tonumber(held[1] or BLOCK)
  local function find_place()
    while redis.call('LLEN', prefix .. block_of(number)) ~= number % BLOCK do
      number = (block_of(number) + 1) * BLOCK
    end
  end
  find_place()
  local fresh, seen, low, high = {}, {}, {}, {}
  for at = events_at + 1, events_at + 6 * event_count, 6 do
    local stream, seq, place = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at] .. ':' .. ARGV[at + 1]
    local there, first = seen[place], base[stream]
    if not there and first and seq >= first and seq < first + length[stream] then
      local own = redis.call('LINDEX', KEYS[first_list + stream], seq - first)
      if own ~= '' then
        there = redis.call('LINDEX', prefix .. block_of(tonumber(own)), tonumber(own) % BLOCK) or ''
      end
    end
    if not there then
      local lowest = low[stream] or first or seq
      local highest = high[stream] or first and first + length[stream] - 1 or seq
      if seq > highest + MOST_AHEAD or seq < lowest - MOST_AHEAD then
        return {'far', ARGV[names_at + stream], ARGV[at + 1]}
      end
      low[stream], high[stream] = math.min(lowest, seq), math.max(highest, seq)
      seen[place] = ARGV[at + 2]
      if number % BLOCK == 0 then
        find_place()
        redis.call('ZCARD', blocks)
      end
      fresh[#fresh + 1] = {stream, seq, at, number}
      number = number + 1
    elseif strict and there ~= ARGV[at + 2] then
      return {'taken', ARGV[names_at + stream], ARGV[at + 1]}
    end
  end
  return nil, function()
    if #fresh == 0 then return {'ok', 0, count} end
    -- First, as the lists of names alone have not been looked at: whatever is wrong with them, nothing is written.
    for at = 1, #fresh do
      local _, _, from, own = unpack(fresh[at])
      for offset = 3, 5 do
        local names = tonumber(ARGV[from + offset])
        if names == 0 then break end
        redis.call('RPUSH', KEYS[first_names + names], text(own))
      end
    end
    local values, tails, moved = {}, {}, {}
    local function push_tail(stream)
      if tails[stream] then redis.call('RPUSH', KEYS[first_list + stream], unpack(tails[stream])) end
      tails[stream] = nil
    end
    for at = 1, #fresh do
      local stream, seq, from, own = unpack(fresh[at])
      local list, name, block = KEYS[first_list + stream], text(own), block_of(own)
      values[#values + 1] = ARGV[from + 2]
      if at == #fresh or block_of(fresh[at + 1][4]) ~= block then
        redis.call('RPUSH', prefix .. block, unpack(values))
        if own % BLOCK - #values < 0 then redis.call('ZADD', blocks, block, block) end
        values = {}
      end
      if not base[stream] then base[stream], moved[stream] = seq, true end
      local index = seq - base[stream]
      if index == length[stream] then
        tails[stream] = tails[stream] or {}
        table.insert(tails[stream], name)
        if #tails[stream] == BLOCK then push_tail(stream) end
        length[stream] = index + 1
      else
        push_tail(stream)
        if index < 0 then
          for _ = index, -2 do redis.call('LPUSH', list, '') end
          redis.call('LPUSH', list, name)
          base[stream], length[stream], moved[stream] = seq, length[stream] - index, true
        elseif index < length[stream] then
          redis.call('LSET', list, index, name)
        else
          for _ = length[stream], index - 1 do redis.call('RPUSH', list, '') end
          redis.call('RPUSH', list, name)
          length[stream] = index + 1
        end
      end
    end
    for stream = 1, stream_count do
      push_tail(stream)
      if moved[stream] then redis.call('HSET', streams, ARGV[names_at + stream], text(base[stream])) end
    end
    count = count + #fresh
    redis.call('HSET', state, 'next', text(number), 'count', text(count))
    return {'ok', #fresh, count}
  end
end
""".replace("BLOCK", str(BLOCK)).replace("MOST_AHEAD", str(MOST_AHEAD))
)

APPEND = script(
    SEALED,
    """
local problem, write = sealed(1, 1)
if problem then return problem end
return write()
""",
)

_RANGE = """
local function range(name, after, most)
  local base = redis.call('HGET', KEYS[1], name)
  local found = {}
  if not base then return found end
  local at = math.max(0, after + 1 - tonumber(base))
  while #found < most do
    local part = redis.call('LRANGE', KEYS[2], at, at + most - 1)
    if #part == 0 then break end
    for _, number in ipairs(part) do
      if number ~= '' and #found < most then found[#found + 1] = number end
    end
    at = at + most
  end
  return found
end
"""

# The numbers of a stream's events. KEYS: the streams, the list of this one. ARGV: its name, after which seq, how many.
RANGE = script(
    _RANGE,
    """
return range(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
""",
)

# The events of a stream. KEYS and ARGV: as RANGE, and what the keys of blocks begin with. Of a block that is not there
# one value is empty, for whatever reason: with its key among KEYS the server says more.
TRAIL = script(
    NUMBERS,
    _RANGE,
    """
local numbers = range(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
local found, at = {}, 1
while at <= #numbers do
  local first, last = tonumber(numbers[at]), at
  local place = first % BLOCK
  while place + last - at < BLOCK - 1 and tonumber(numbers[last + 1]) == first + last + 1 - at do last = last + 1 end
  local values = redis.call('LRANGE', ARGV[4] .. block_of(first), place, place + last - at)
  if #values ~= last - at + 1 then return {''} end
  for _, value in ipairs(values) do found[#found + 1] = value end
  at = last + 1
end
return found
""".replace("BLOCK", str(BLOCK)),
)

# The numbers of the events of a stream at some places (empty: none). KEYS: as RANGE. ARGV: its name, then the seqs.
PLACES = script(
    """
local base = redis.call('HGET', KEYS[1], ARGV[1])
local found = {}
for at = 2, #ARGV do
  local index = base and tonumber(ARGV[at]) - tonumber(base) or -1
  found[at - 1] = index >= 0 and redis.call('LINDEX', KEYS[2], index) or ''
end
return found
"""
)

# The newest numbers in a list of names. KEYS: the list. ARGV: below which (empty: any), how many. Numbers only grow.
NAMED = script(
    """
local key, most = KEYS[1], tonumber(ARGV[2])
local high = redis.call('LLEN', key)
if ARGV[1] ~= '' then
  local low, below = 0, tonumber(ARGV[1])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('LINDEX', key, middle)) < below then low = middle + 1 else high = middle end
  end
end
if high == 0 then return {} end
return redis.call('LRANGE', key, math.max(0, high - most), high - 1)
"""
)

# Events by their numbers. KEYS: blocks. ARGV: how many texts, and those that a value must hold (else, and where there
# is none, it is empty); then for each block how many of its events, and their places in it.
FETCH = script(
    """
local texts = tonumber(ARGV[1])
local found, at = {}, texts + 2
for _, block in ipairs(KEYS) do
  local last = at + tonumber(ARGV[at])
  for place = at + 1, last do
    local value = redis.call('LINDEX', block, ARGV[place]) or ''
    for number = 2, texts + 1 do
      if value ~= '' and not string.find(value, ARGV[number], 1, true) then value = '' end
    end
    found[#found + 1] = value
  end
  at = last + 1
end
return found
"""
)

# Events newest first, as numbers and values. KEYS: blocks, newest first. ARGV: below which number (empty: any), since
# and until when (microseconds; empty: ever), how many at most, how many texts, and those that a value must hold; then
# the numbers of the blocks. It may give some too many: times are compared where they are as they always are.
SCAN = script(
    NUMBERS,
    """
local below, since, until_ = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local most, texts = tonumber(ARGV[4]), tonumber(ARGV[5])
local found = {}
local function wanted(value)
  for number = 6, texts + 5 do
    if not string.find(value, ARGV[number], 1, true) then return false end
  end
  if since or until_ then
    -- As MessagePack: an array of more than 15, then an unsigned integer of eight bytes.
    local kind, a, b, c, d, e, f, g, h = string.byte(value, 4, 12)
    if kind == 207 then
      local at = ((((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g) * 256 + h
      return (not since or at >= since) and (not until_ or at < until_)
    end
  end
  return true
end
for place, key in ipairs(KEYS) do
  local begin, values = tonumber(ARGV[texts + 5 + place]) * BLOCK, redis.call('LRANGE', key, 0, -1)
  for at = #values, 1, -1 do
    local number = begin + at - 1
    if values[at] ~= '' and (not below or number < below) and wanted(values[at]) then
      found[#found + 1] = text(number)
      found[#found + 1] = values[at]
      if #found >= 2 * most then return found end
    end
  end
end
return found
""".replace("BLOCK", str(BLOCK)),
)
