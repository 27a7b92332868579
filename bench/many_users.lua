-- wrk -s many_users.lua URL -- FILE: each request is of the next user of FILE, lines of a token and an address.
local requests, next_one = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local token, address = line:match("^(%S+) (%S+)$")
    wrk.headers["Authorization"] = "Bearer " .. token
    wrk.headers["X-Forwarded-For"] = address
    requests[#requests + 1] = wrk.format()
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end
