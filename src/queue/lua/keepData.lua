-- A repeatable of BullMQ 5 that is about to become a scheduler: its hash has neither a count of iterations nor the data.
-- KEYS[1] the set of schedulers, KEYS[11] the hash of the iteration that was fetched; ARGV[2] the key of the repeatable.
do
  local hash = KEYS[1] .. ':' .. ARGV[2]
  if redis.call('ZSCORE', KEYS[1], ARGV[2]) and redis.call('HEXISTS', hash, 'ic') == 0
    and redis.call('HEXISTS', hash, 'data') == 0 then
    local data = redis.call('HGET', KEYS[11], 'data')
    if data and data ~= '{}' then
      redis.call('HSET', hash, 'data', data)
    end
  end
end
