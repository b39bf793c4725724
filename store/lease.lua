-- Takes, extends or gives back partitions, judged by Redis's own clock.
--
-- KEYS one partition hash each: owner, until (ms), epoch, seq, commits, rules
-- ARGV[1] acquire, renew or release
-- ARGV[2] owner
-- ARGV[3] time to live in milliseconds (unused by release)
--
-- Result, per key: {'ours', epoch, seq, commits, rules} when it is the owner's now, else {'not ours'}
--
-- Every acquisition gets a new epoch, the present owner's too: the time in microseconds, or one more than the last. So it
-- grows even when the data that holds it was lost or restored from a copy, and no two holdings ever have the same.

local verb, owner, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)

local result = {}
for i, key in ipairs(KEYS) do
  local p = redis.call('HMGET', key, 'owner', 'until', 'epoch', 'seq', 'commits', 'rules')
  local epoch = p[3]
  local live = p[1] and tonumber(p[2] or '0') > now
  local ours = live and p[1] == owner
  if verb == 'release' then
    if p[1] == owner then
      redis.call('HDEL', key, 'owner', 'until')
    end
    ours = false
  elseif verb == 'acquire' and (ours or not live) then
    epoch = string.format('%.0f', math.max(micros, tonumber(epoch or '0') + 1))
    redis.call('HSET', key, 'owner', owner, 'epoch', epoch)
    ours = true
  end
  if ours then
    redis.call('HSET', key, 'until', string.format('%.0f', now + ttl))
    result[i] = {'ours', epoch, p[4] or '0', p[5] or '0', p[6] or '0'}
  else
    result[i] = {'not ours'}
  end
end
return result
