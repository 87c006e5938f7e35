-- What Lua programs do: calls, tables, closures, strings, patterns, sorting. Prints checksums.
local function fib(n)
    if n < 2 then return n end
    return fib(n - 1) + fib(n - 2)
end

local function sieve(n)
    local composite, count = {}, 0
    for i = 2, n do
        if not composite[i] then
            count = count + 1
            for j = i * i, n, i do composite[j] = true end
        end
    end
    return count
end

local function words(n)
    local seen, out, seed = {}, {}, 42
    for _ = 1, n do
        seed = (seed * 1103515245 + 12345) % 2147483648
        local word = string.format("w%x", seed // 65536 % 5000)
        seen[word] = (seen[word] or 0) + 1
    end
    for word, times in pairs(seen) do out[#out + 1] = word .. "=" .. times end
    table.sort(out)
    local text, digits = table.concat(out, " "), 0
    for number in text:gmatch("=(%d+)") do digits = digits + tonumber(number) end
    return #text, digits, (text:gsub("w(%x)", "%1v")):sub(1, 20)
end

local Account = {}
Account.__index = Account
function Account.new(sum) return setmetatable({sum = sum, log = {}}, Account) end
function Account:move(amount)
    self.sum = self.sum + amount
    self.log[#self.log % 100 + 1] = amount
    return self
end

local function objects(n)
    local list = {}
    for i = 1, 1000 do list[i] = Account.new(i) end
    for i = 1, n do list[i % 1000 + 1]:move(i % 7 - 3) end
    local sum = 0
    for _, account in ipairs(list) do sum = sum + account.sum end
    return sum
end

print(fib(27), sieve(300000), objects(500000))
print(words(100000))
