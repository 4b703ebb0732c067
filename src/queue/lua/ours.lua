-- Active jobs that this worker's invocation locked, and those it once took whose lock has expired.
--   KEYS[1] active
--   ARGV[1] key prefix of the queue, ARGV[2] token prefix, ARGV[3] worker name
--   returns id, token, id, token, ...; the token is empty where nobody holds the lock
local found = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local key = ARGV[1] .. id
  -- A key of another type is no job's, and must not hide those that are.
  local token = redis.pcall('GET', key .. ':lock')
  if type(token) == 'string' then
    if string.sub(token, 1, #ARGV[2]) == ARGV[2] then
      table.insert(found, id)
      table.insert(found, token)
    end
  elseif not token and redis.pcall('HGET', key, 'pb') == ARGV[3] then
    table.insert(found, id)
    table.insert(found, '')
  end
end
return found
