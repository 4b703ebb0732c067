-- Removes the counters of a job that Redis cannot count up.
--   KEYS[1] job hash
--   returns the fields that were removed
local removed = {}
for _, field in ipairs({ 'ats', 'atm', 'stc' }) do
  local value = redis.call('HGET', KEYS[1], field)
  if value and (#value > 15 or not string.find(value, '^-?%d+$')) then
    redis.call('HDEL', KEYS[1], field)
    table.insert(removed, field)
  end
end
return removed
