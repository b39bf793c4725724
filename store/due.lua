-- Looks at the armed timers of some partitions, by Redis's own clock. Changes nothing.
--
-- KEYS one sorted set of timers each: timer id by due time (ms)
-- ARGV[1] most due timers per key
--
-- Result {now (ms), due time of the first timer not yet due (ms) or 0, id, due time (ms), id, due time, ...}

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local result, following = {now, 0}, nil
for _, key in ipairs(KEYS) do
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
  for i = 1, #due, 2 do
    result[#result + 1] = due[i]
    result[#result + 1] = tonumber(due[i + 1])
  end
  local later = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if later[2] and (not following or tonumber(later[2]) < following) then
    following = tonumber(later[2])
  end
end
result[2] = following or 0
return result
