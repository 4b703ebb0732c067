-- A scheduler is only written over what the caller saw, and never over an iteration that is due: BullMQ's script would
-- delete that and go on to the next time.
-- KEYS[1] the set of schedulers; ARGV[3] id, ARGV[8] prefix of all keys, ARGV[10] the score that the caller saw, or ''
do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[3])
  if (score or '') ~= ARGV[10] then
    return 'changed'
  end
  if score then
    local time = redis.call('TIME')
    local iteration = ARGV[8] .. 'repeat:' .. ARGV[3] .. ':' .. score
    local due = tonumber(score) <= time[1] * 1000 + math.floor(time[2] / 1000)
    if due and redis.call('HEXISTS', iteration, 'name') == 1 and redis.call('HEXISTS', iteration, 'finishedOn') == 0 then
      return 'due'
    end
  end
end
