-- Asks a gate of Flint about each request. In the section `global` of HAProxy 2.6 or later:
--
--     setenv FLINT_SERVER http://127.0.0.1:7878
--     setenv FLINT_TOKEN_FILE /etc/haproxy/flint-token
--     lua-load haproxy.lua
--
-- (without FLINT_TOKEN_FILE for a server without a token)
-- and in a frontend `http-request lua.flint GATE`. It sets
--
--     txn.flint_status       204 allowed; 429 or 403 denied; 503 undecided; 0 where Flint can't be reached
--     txn.flint_retry_after  seconds, on a denial
--     txn.flint_ratelimit    the header RateLimit
--     txn.flint_policy       the header RateLimit-Policy

local server = os.getenv("FLINT_SERVER") or "http://127.0.0.1:7878"
local TIMEOUT_MS = 1000

local function read_token(file)
    if file == nil then
        return nil
    end
    local opened = assert(io.open(file, "r"))
    for line in opened:lines() do
        line = line:match("^%s*(.-)%s*$")
        if line ~= "" and line:sub(1, 1) ~= "#" then
            opened:close()
            return line
        end
    end
    error(file .. " holds no token")
end

local token = read_token(os.getenv("FLINT_TOKEN_FILE"))

local function first(headers, name)
    local values = headers and headers[name]
    return values and values[0]
end

local function set(txn, name, value)
    if value ~= nil then
        txn:set_var("txn.flint_" .. name, value)
    end
end

core.register_action("flint", { "http-req" }, function(txn, gate)
    -- What the client sent in these names is replaced.
    local headers = {
        ["x-forwarded-for"] = { txn.sf:src() },
        ["x-original-method"] = { txn.sf:method() },
        ["x-original-uri"] = { txn.sf:pathq() },
        ["x-forwarded-host"] = { txn.sf:req_hdr("host") },
    }
    if token ~= nil then
        headers["authorization"] = { "Bearer " .. token }
    end
    local asked, reply = pcall(function()
        return core.httpclient():get({ url = server .. "/v1/gates/" .. gate, headers = headers, timeout = TIMEOUT_MS })
    end)
    local status = asked and reply and reply.status or 0
    -- Where there is no connection, HAProxy answers its own client 503 in a page of HTML.
    if status >= 500 and first(reply.headers, "content-type") ~= "application/json" then
        status = 0
    end
    if status == 0 then
        txn:set_var("txn.flint_status", 0)
        return
    end
    txn:set_var("txn.flint_status", status)
    set(txn, "retry_after", first(reply.headers, "retry-after"))
    set(txn, "ratelimit", first(reply.headers, "ratelimit"))
    set(txn, "policy", first(reply.headers, "ratelimit-policy"))
end, 1)
