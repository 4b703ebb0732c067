-- Puts a job that is in no list or set back to where it would wait; does nothing to any other.
--   KEYS[1] job hash, [2] active, [3] delayed, [4] prioritized, [5] completed, [6] failed, [7] waiting-children,
--   KEYS[8] marker, [9] wait, [10] paused, [11] meta
--   ARGV[1] job id, ARGV[2] key of the priority counter, ARGV[3] event stream
--   returns 1 if it was lost
local id = ARGV[1]
local job = redis.call('HMGET', KEYS[1], 'name', 'timestamp', 'priority', 'finishedOn', 'opts', 'delay', 'processedOn')
-- Not a job (a scheduler's hash has no timestamp), or one that ended and whose set was trimmed by hand.
if not job[1] or not job[2] or not job[5] or job[4] then return 0 end
for index = 3, 7 do
  if redis.call('ZSCORE', KEYS[index], id) then return 0 end
end
for _, list in ipairs({ KEYS[2], KEYS[9], KEYS[10] }) do
  if redis.call('LPOS', list, id) then return 0 end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A delay counts from when the job was added, that of a retry from about its last start. It is 0 once it was over.
local due = math.max(tonumber(job[2]) or 0, tonumber(job[7]) or 0) + (tonumber(job[6]) or 0)
if (tonumber(job[6]) or 0) > 0 and due > now then
  redis.call('ZADD', KEYS[3], string.format('%.0f', due * 4096), id)
  redis.call('XADD', ARGV[3], '*', 'event', 'delayed', 'jobId', id, 'delay', string.format('%.0f', due))
  local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  redis.call('ZADD', KEYS[8], tonumber(first[2]) / 4096, '1')
  return 1
end
local priority = tonumber(job[3]) or 0
if priority > 0 then
  local counter = redis.call('INCR', ARGV[2])
  redis.call('ZADD', KEYS[4], priority * 0x100000000 + counter % 0x100000000, id)
else
  redis.call('LPUSH', KEYS[9], id)
end
redis.call('XADD', ARGV[3], '*', 'event', 'waiting', 'jobId', id)
if redis.call('HEXISTS', KEYS[11], 'paused') == 0 then
  redis.call('ZADD', KEYS[8], 0, '0')
end
settle(KEYS[9], KEYS[10], KEYS[11])
return 1
