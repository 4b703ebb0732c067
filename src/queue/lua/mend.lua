-- Removes what BullMQ's scripts would end half-way at: counters that Redis cannot count up, a parent that names no job.
-- (The parent's key, a field of its own, stays: it is enough for the scripts.)
--   KEYS[1] job hash
--   returns the fields that were removed
local removed = {}
local function remove(field)
  redis.call('HDEL', KEYS[1], field)
  table.insert(removed, field)
end
for _, field in ipairs({ 'ats', 'atm', 'stc' }) do
  local value = redis.call('HGET', KEYS[1], field)
  if value and (#value > 15 or not (value == '0' or string.find(value, '^-?[1-9]%d*$'))) then
    remove(field)
  end
end
local parent = redis.call('HGET', KEYS[1], 'parent')
if parent then
  local read, value = pcall(cjson.decode, parent)
  if not read or type(value) ~= 'table' or type(value['id']) ~= 'string' or type(value['queueKey']) ~= 'string' then
    remove('parent')
  end
end
return removed
