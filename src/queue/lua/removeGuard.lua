-- A scheduler is not removed while an iteration of it is due.
-- KEYS[1] the set of schedulers; ARGV[1] id, ARGV[2] prefix of all keys
do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if score then
    local time = redis.call('TIME')
    local iteration = ARGV[2] .. 'repeat:' .. ARGV[1] .. ':' .. score
    local due = tonumber(score) <= time[1] * 1000 + math.floor(time[2] / 1000)
    if due and redis.call('HEXISTS', iteration, 'name') == 1 and redis.call('HEXISTS', iteration, 'finishedOn') == 0 then
      return -1
    end
  end
end
