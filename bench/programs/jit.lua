-- What makes a compiler that compiles while the program runs work: calls, loops, strings, and functions made
-- anew all the time. Prints checksums.
local function fib(n) if n<2 then return n end return fib(n-1)+fib(n-2) end
local function sieve(n)
  local c,k={},0
  for i=2,n do if not c[i] then k=k+1 for j=i*i,n,i do c[j]=true end end end
  return k
end
local function words(n)
  local seen,out,seed={}, {}, 42
  for _=1,n do seed=(seed*1103515245+12345)%2147483648
    local w=string.format("w%x",math.floor(seed/65536)%5000)
    seen[w]=(seen[w] or 0)+1 end
  local t=0 for w,k in pairs(seen) do t=t+#w*k end return t
end
local function many(k)
  local t=0
  for f=1,k do
    local g=loadstring(string.format("return function(n) local s=%d for i=1,n do if i%%%d==0 then s=s+i elseif i%%%d==1 then s=s-i*%d else s=s-1 end end return s end",f,f%7+2,f%5+2,f+3))()
    t=t+g(3000)
  end
  return t
end
print(fib(30),sieve(2000000),words(300000),many(400))
