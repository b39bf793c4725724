-- Removes delivered entries from one outbox, unless the partition has been acquired again since they were read: had Redis
-- lost writes in between, the same numbers would now name other entries.
--
-- KEYS[1] partition hash: epoch
-- KEYS[2] outbox stream
-- ARGV[1] epoch of the lease under which the entries were read
-- ARGV[2..] entry ids, at least one
--
-- Result: removed or fenced

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 'fenced'
end
redis.call('XDEL', KEYS[2], unpack(ARGV, 2))
return 'removed'
