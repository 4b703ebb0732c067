-- The next iteration of a repeatable whose key is of the old form, as BullMQ 5 makes it.
-- KEYS: 1 the set of repeatables, 2 delayed, 3 marker, 4 events, 5 meta, 6 counter of ids, 7 the fetched iteration's hash
-- ARGV: 1 the repeatable's key, 2 prefix of all keys, 3 what the ids of its iterations begin with, 4 when the fetched
--       iteration was due, 5 when the next one is due, 6 the offset of its job from that, 7 its options as JSON,
--       8 its name, where the hash has none
-- Returns the id of the next iteration, or nothing: removed meanwhile, or another worker was here before.
local head = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not head then
  return false
end
if tonumber(head) ~= tonumber(ARGV[4]) and redis.call('EXISTS', ARGV[2] .. ARGV[3] .. head) == 1 then
  return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = math.max(tonumber(ARGV[5]) + tonumber(ARGV[6]), now)
local id = ARGV[3] .. ARGV[5]
local job = ARGV[2] .. id
local most = redis.call('HGET', KEYS[5], 'opts.maxLenEvents') or 10000
redis.call('ZADD', KEYS[1], ARGV[5], ARGV[1])
if redis.call('EXISTS', job) == 1 then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', most, '*', 'event', 'duplicated', 'jobId', id)
  return id
end

local stored = redis.call('HMGET', KEYS[7], 'name', 'data', 'priority')
local name = stored[1] or ARGV[8]
local text = function(number) return string.format('%.0f', number) end
redis.call('INCR', KEYS[6])
redis.call('HSET', job, 'name', name, 'data', stored[2] or '{}', 'opts', ARGV[7], 'timestamp', text(now),
  'delay', text(due - now), 'priority', stored[3] or '0', 'rjk', ARGV[1])
redis.call('XADD', KEYS[4], '*', 'event', 'added', 'jobId', id, 'name', name)

-- A due time has room for 4096 jobs: behind the last of them, so that they run in the order in which they were added.
local first, last = due * 4096, due * 4096 + 4095
local taken = redis.call('ZREVRANGEBYSCORE', KEYS[2], text(last), text(first), 'WITHSCORES', 'LIMIT', 0, 1)
local place = taken[2] and math.min(tonumber(taken[2]) + 1, last) or first
redis.call('ZADD', KEYS[2], text(place), id)
redis.call('XADD', KEYS[4], 'MAXLEN', '~', most, '*', 'event', 'delayed', 'jobId', id, 'delay', text(due))
local earliest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
redis.call('ZADD', KEYS[3], tonumber(earliest[2]) / 4096, '1')
return id
