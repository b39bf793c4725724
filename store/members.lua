-- Shows one replica to the others and lists the living, judged by Redis's own clock.
--
-- KEYS[1] members: replica by the end of its life (ms)
-- ARGV[1] replica
-- ARGV[2] time to live in milliseconds; '0' leaves
--
-- Result: the living, in alphabetical order

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local living = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(living)
return living
