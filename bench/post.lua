-- wrk -s post.lua URL: POSTs 1 KB of JSON.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"name": "item", "text": "' .. string.rep("x", 996) .. '"}'
