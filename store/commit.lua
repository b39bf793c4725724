-- Commits one decision: all of it or nothing. Checks come first, writes last.
--
-- KEYS[1] partition hash: owner, until (ms), epoch, seq, commits, rules
-- KEYS[2] record hash: v, r, d; the partition hash again when no record changes
-- KEYS[3] timers of the partition
-- KEYS[4..] keys that the changes name by their index
--
-- ARGV[1] epoch of the caller's lease
-- ARGV[2] floor: number of commits that the caller knows to be stored
-- ARGV[3] seq: log position of the entry that was decided
-- ARGV[4] log position of the rules in force, '0' keeps what is stored
-- ARGV[5] id of the timer that fired, '' for none
-- ARGV[6] version that the record must have, '' when no record changes
-- ARGV[7] event id, exactly 16 characters without a comma
-- ARGV[8] sealed record of the next version
-- ARGV[9] milliseconds to keep the record from now on, '0' to keep it for good
-- ARGV[10..] changes, four values each: verb, index of its key, member, value
--   arm (timer, due in ms), disarm (timer), place (appointment, score), leave (appointment), load (provider, delta),
--   pair (field, appointment), unpair (field, appointment that it must hold, '' for any), say (log position, sealed messages)
--
-- Result {outcome, commits stored}:
--   committed  everything is written, and the outbox entries have the id <commits>-0
--   duplicate  the record has seen the event: only the position moves, and the fired timer goes
--   replayed   the position is past seq: nothing changes, and the fired timer goes
--   conflict   the record has another version: nothing changes
--   rewound    fewer commits than the floor: writes were lost, nothing changes
--   fenced     the lease is another's, was given back, or is gone with the data: nothing changes

local partition, record, timers = KEYS[1], KEYS[2], KEYS[3]
local epoch, floor, seq, rules, fired = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local expected, event, sealed, keep = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local recent_length = 64 * 17 - 1 -- 64 ids of 16 characters and the commas between them

local p = redis.call('HMGET', partition, 'owner', 'epoch', 'seq', 'commits')
if not p[1] or p[2] ~= epoch then
  return {'fenced', 0}
end
local commits = tonumber(p[4] or '0')
if commits < floor then
  return {'rewound', commits}
end
if tonumber(seq) <= tonumber(p[3] or '0') then
  -- The entry was decided, so its timer has done its duty. An id is armed only once, so this takes no later timer.
  if fired ~= '' then
    redis.call('ZREM', timers, fired)
  end
  return {'replayed', commits}
end

local outcome, recent = 'committed', ''
if expected ~= '' then
  local r = redis.call('HMGET', record, 'v', 'd')
  recent = r[2] or ''
  -- Ids are as long as each other and hold no comma, so an id is found only where one begins.
  if string.find(recent, event, 1, true) then
    outcome = 'duplicate'
  elseif (r[1] or '0') ~= expected then
    return {'conflict', commits}
  end
end

if fired ~= '' then
  redis.call('ZREM', timers, fired) -- before the changes, which may arm
end
if outcome == 'committed' then
  local entry = string.format('%.0f-0', commits + 1)
  for i = 10, #ARGV, 4 do
    local verb, key, member, value = ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3]
    if verb == 'say' then
      redis.call('XADD', key, entry, 's', member, 'p', value)
    elseif verb == 'arm' or verb == 'place' then
      redis.call('ZADD', key, value, member)
    elseif verb == 'disarm' or verb == 'leave' then
      redis.call('ZREM', key, member)
    elseif verb == 'load' then
      if redis.call('HINCRBY', key, member, value) == 0 then
        redis.call('HDEL', key, member)
      end
    elseif verb == 'pair' then
      redis.call('HSET', key, member, value)
    elseif verb == 'unpair' and (value == '' or redis.call('HGET', key, member) == value) then
      redis.call('HDEL', key, member)
    end
  end
  if expected ~= '' then
    if recent ~= '' then
      event = string.sub(event .. ',' .. recent, 1, recent_length)
    end
    redis.call('HSET', record, 'v', string.format('%.0f', tonumber(expected) + 1), 'r', sealed, 'd', event)
    if keep ~= '0' then
      redis.call('PEXPIRE', record, keep)
    elseif expected ~= '0' then
      redis.call('PERSIST', record) -- what was final may live again
    end
  end
end

if rules ~= '0' then
  redis.call('HSET', partition, 'rules', rules)
end
redis.call('HSET', partition, 'seq', seq, 'commits', string.format('%.0f', commits + 1))
return {outcome, commits + 1}
