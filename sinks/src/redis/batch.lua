-- A batch: operations and the position that says they are done, at once. Operations that are known to be done are left out, so
-- that a batch can come twice: from a connection that was given up, and again from the one that followed it.
--
-- KEYS: position, partial, expiry. ARGV: epoch, node, retain layout, prefix ('' = no position), number of lanes, then of each its
-- number, its new position and its first record in the batch, then operations: tag, name (lane:record:place), number of arguments,
-- arguments. 'messages' are several operations, with their names separated by spaces and seven arguments each.
-- Returns {'ok'}, {'stale'}, {'failed', index, error, ...} or {'stop', index, error}: after a stop the rest was not tried.
local ARGV, redis = ARGV, redis
local positions, partial, expiry = KEYS[1], KEYS[2], KEYS[3]
local epoch, node, zset, prefix, count = ARGV[1], ARGV[2], ARGV[3] == 'zset', ARGV[4], tonumber(ARGV[5])
local at = 6

if redis.call('HGET', positions, 'epoch') ~= epoch then
  return {'stale'}
end

local function run(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    error({fault = reply.err}, 0)
  end
  return reply
end

-- Lua compares strings by the server's locale.
local function less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local function own(id)
  return #id == 20 and not string.find(id, '[^0-9A-Za-z]')
end

local function hash(key, a)
  run('HSET', key, 'id', ARGV[a], 'from', ARGV[a + 2], 'qos', ARGV[a + 3], 'topic', ARGV[a + 1], 'payload', ARGV[a + 4],
    'ts', ARGV[a + 5], 'retain', ARGV[a + 6])
end

local function expires(key, a, kind)
  if ARGV[a + 7] ~= '' then
    run('PEXPIREAT', key, ARGV[a + 7])
    if kind then
      run('ZADD', expiry, ARGV[a + 7], kind .. ARGV[a] .. ARGV[a + 1])
    end
  end
end

local function message(a)
  local key = 'mqtt:msg:' .. ARGV[a]
  hash(key, a)
  expires(key, a, 'm')
  run('ZADD', 'mqtt:msg:' .. ARGV[a + 1], 1, ARGV[a])
end

-- Takes a message out of its topic; what is retained keeps its hash.
local function drop(topic, id)
  run('ZREM', 'mqtt:msg:' .. topic, id)
  if not (zset and run('ZSCORE', 'mqtt:retain:' .. topic, id)) then
    run('DEL', 'mqtt:msg:' .. id)
  end
end

local function unretain(topic, but)
  local key = 'mqtt:retain:' .. topic
  for _, id in ipairs(run('ZRANGE', key, 0, -1)) do
    if id ~= but then
      run('ZREM', key, id)
      if not run('ZSCORE', 'mqtt:msg:' .. topic, id) then
        run('DEL', 'mqtt:msg:' .. id)
      end
    end
  end
end

local ops = {}

ops.message = message

function ops.latest(a)
  local id, topic = ARGV[a], ARGV[a + 1]
  local newest = run('ZREVRANGE', 'mqtt:msg:' .. topic, 0, 0)[1]
  if newest and own(newest) and less(id, newest) then
    return
  end
  message(a)
  for _, old in ipairs(run('ZRANGE', 'mqtt:msg:' .. topic, 0, 999)) do
    if less(old, id) then
      drop(topic, old)
    end
  end
end

function ops.retain(a)
  local id, topic = ARGV[a], ARGV[a + 1]
  local key = 'mqtt:retain:' .. topic
  if zset then
    hash('mqtt:msg:' .. id, a)
    expires('mqtt:msg:' .. id, a, 'r')
    run('ZADD', key, 1, id)
    unretain(topic, id)
    return
  end
  hash(key, a)
  if ARGV[a + 7] == '' then
    run('PERSIST', key)
  else
    expires(key, a)
  end
end

function ops.unretain(a)
  if zset then
    unretain(ARGV[a], '')
  else
    run('DEL', 'mqtt:retain:' .. ARGV[a])
  end
end

function ops.acked(a)
  local client, topic, id = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  id = run('HGET', 'forebay:imported:' .. topic, 'm:' .. id) or id
  local key = 'mqtt:acked:' .. client .. ':' .. topic
  local before = run('GET', key)
  if not before then
    run('SADD', 'forebay:acked:' .. client, topic)
  end
  if not before or own(before) ~= own(id) or less(before, id) then
    run('SET', key, id)
  end
end

function ops.remove(a)
  local topic, id = ARGV[a], ARGV[a + 1]
  local foreign = run('HGET', 'forebay:imported:' .. topic, 'm:' .. id)
  drop(topic, foreign or id)
  if foreign then
    run('HDEL', 'forebay:imported:' .. topic, 'm:' .. id, 'k:' .. foreign)
  end
end

function ops.forget(a, n)
  for i = a + 1, a + n - 1 do
    run('DEL', 'mqtt:acked:' .. ARGV[a] .. ':' .. ARGV[i])
    run('SREM', 'forebay:acked:' .. ARGV[a], ARGV[i])
  end
end

function ops.imported(a)
  run('HSET', 'forebay:imported:' .. ARGV[a], 'm:' .. ARGV[a + 1], ARGV[a + 2], 'k:' .. ARGV[a + 2], ARGV[a + 1])
end

function ops.online(a)
  local client, time = ARGV[a], ARGV[a + 1]
  run('HSET', 'mqtt:client:' .. client, 'state', 1, 'online_at', time, 'offline_at', 'undefined')
  run('HSET', 'mqtt:node:' .. node, client, time)
  run('SET', 'forebay:at:' .. client, node)
end

-- Another node may have the client by now: its status is left alone.
function ops.offline(a)
  local client, time = ARGV[a], ARGV[a + 1]
  if (run('GET', 'forebay:at:' .. client) or node) == node then
    run('HSETNX', 'mqtt:client:' .. client, 'state', 0)
    run('HSETNX', 'mqtt:client:' .. client, 'online_at', 'undefined')
    run('HSET', 'mqtt:client:' .. client, 'state', 0, 'offline_at', time)
    run('DEL', 'forebay:at:' .. client)
  end
  run('HDEL', 'mqtt:node:' .. node, client)
end

function ops.command(a, n)
  run(unpack(ARGV, a, a + n - 1))
end

-- Errors that are the server's or the operator's: every operation would meet them, and none is to blame.
local words = {OOM = 1, READONLY = 1, MISCONF = 1, NOPERM = 1, NOREPLICAS = 1, LOADING = 1, MASTERDOWN = 1, NOAUTH = 1, BUSY = 1}
local phrases = {'unknown command', 'Unknown Redis command', 'wrong number of arg', 'Wrong number of arg', 'not allowed from script',
  'The user executing the script', 'ACL failure', 'has no permissions', 'maxmemory'}

local function stops(fault)
  if words[string.match(fault, '^%-?(%u+)') or ''] then
    return true
  end
  for _, phrase in ipairs(phrases) do
    if string.find(fault, phrase, 1, true) then
      return true
    end
  end
  return false
end

local lanes, done, fresh = {}, {}, true
for _ = 1, count do
  local lane, position, first = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  lanes[#lanes + 1] = lane
  lanes[#lanes + 1] = position
  done[lane] = tonumber(redis.call('HGET', positions, lane) or 0)
  fresh = fresh and done[lane] <= tonumber(first)
  at = at + 3
end

local kept = prefix ~= '' and redis.call('EXISTS', partial) == 1
fresh = fresh and not kept
local index, failed, finished, halted = 0, {}, {}, nil

local function is_done(name)
  local lane, record = string.match(name, '^(%d+):(%d+):')
  return (done[lane] and tonumber(record) < done[lane]) or (kept and redis.call('HEXISTS', partial, name) == 1)
end

local function refused(number, fault)
  if stops(fault) then
    halted = halted or {'stop', number, fault}
  else
    failed[#failed + 1] = number
    failed[#failed + 1] = fault
  end
end

-- Messages that follow one another: their hashes are written first, then each topic gets its members in one command. A member is
-- never there before its hash. The names are of interest only where something is done already, or fails.
local function messages(a, n, names)
  local names_of, is_known = {}, nil
  if not fresh then
    for name in string.gmatch(names, '%S+') do
      names_of[#names_of + 1] = name
    end
    is_known = is_done
  end
  local try, members, topics = redis.pcall, {}, {}
  local number = index
  for i = a, a + n - 1, 7 do
    if not is_known or not is_known(names_of[number - index + 1]) then
      local id, topic = ARGV[i], ARGV[i + 1]
      local reply = try('HSET', 'mqtt:msg:' .. id, 'id', id, 'from', ARGV[i + 2], 'qos', ARGV[i + 3], 'topic', topic,
        'payload', ARGV[i + 4], 'ts', ARGV[i + 5], 'retain', ARGV[i + 6])
      if type(reply) == 'table' and reply.err then
        refused(number, reply.err)
        if halted then
          return
        end
      else
        local command = members[topic]
        if not command then
          command = {'ZADD', 'mqtt:msg:' .. topic, count = 2, of = {}}
          members[topic] = command
          topics[#topics + 1] = command
        end
        local k = command.count
        command[k + 1], command[k + 2], command.of[k / 2], command.count = '1', id, number, k + 2
      end
    end
    number = number + 1
  end
  for _, command in ipairs(topics) do
    local reply = try(unpack(command))
    if type(reply) == 'table' and reply.err then
      for _, of in ipairs(command.of) do
        refused(of, reply.err)
      end
      if halted then
        return
      end
    else
      finished[#finished + 1] = {names = names, first = index, of = command.of}
    end
  end
  index = number
end

while at <= #ARGV and not halted do
  local tag, name, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if tag == 'messages' then
    messages(at + 3, n, name)
  else
    if fresh or not is_done(name) then
      local ok, why = pcall(ops[tag], at + 3, n)
      if ok then
        finished[#finished + 1] = {names = name, first = index, of = {index}}
      else
        refused(index, type(why) == 'table' and why.fault or tostring(why))
      end
    end
    index = index + 1
  end
  at = at + 3 + n
end

if halted or #failed > 0 then
  -- The position waits for those that failed to be dealt with; until then the others are remembered one by one.
  if prefix ~= '' then
    for _, some in ipairs(finished) do
      local names = {}
      for name in string.gmatch(some.names, '%S+') do
        names[#names + 1] = name
      end
      for _, number in ipairs(some.of) do
        redis.pcall('HSET', partial, names[number - some.first + 1], 1)
      end
    end
  end
  return halted or {'failed', unpack(failed)}
end

if prefix ~= '' then
  for i = 1, #lanes, 2 do
    if tonumber(lanes[i + 1]) > done[lanes[i]] then
      redis.call('HSET', positions, lanes[i], lanes[i + 1])
      done[lanes[i]] = tonumber(lanes[i + 1])
    end
  end
  if tonumber(prefix) > tonumber(redis.call('HGET', positions, 'prefix') or 0) then
    redis.call('HSET', positions, 'prefix', prefix)
  end
  if kept then
    for _, field in ipairs(redis.call('HKEYS', partial)) do
      local lane, record = string.match(field, '^(%d+):(%d+):')
      if done[lane] and tonumber(record) < done[lane] then
        redis.call('HDEL', partial, field)
      end
    end
  end
end
return {'ok'}
