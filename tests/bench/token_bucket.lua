-- A token bucket as it is commonly written for Redis, for comparison in scripts/bench: whole and fractional tokens in a
-- hash, refilled by the server's clock, with an expiry.
-- KEYS[1] the bucket; ARGV: capacity, units per period, period in milliseconds, cost.
local capacity, rate, period, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(bucket[1]) or capacity, tonumber(bucket[2]) or now
tokens = math.min(capacity, tokens + (now - at) * rate / period)
local allowed = tokens >= cost
if allowed then tokens = tokens - cost end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(period * capacity / rate))
return { allowed and 1 or 0, math.floor(tokens) }
