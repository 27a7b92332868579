-- wrk -s many_users.lua URL -- FILE [FIRST]: each request is of the next user of FILE, lines of a token and an address.
-- Without FIRST it begins anywhere, so that runs which are too short for all of them have others each time.
local requests, next_one = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local token, address = line:match("^(%S+) (%S+)$")
    wrk.headers["Authorization"] = "Bearer " .. token
    wrk.headers["X-Forwarded-For"] = address
    requests[#requests + 1] = wrk.format()
  end
  math.randomseed(os.time())
  next_one = tonumber(args[2]) or math.random(#requests)
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end
