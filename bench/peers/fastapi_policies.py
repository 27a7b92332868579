"""FastAPI and httpx with the policies that the gateway has: token, three limits in Redis, a JSON line of log.

PyJWT verifies each token; one script counts a request against the limits of caller, address and everybody.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import jwt
from fastapi import FastAPI, HTTPException, Request, Response
from redis.asyncio import Redis

DROPPED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
LIMITS = httpx.Limits(max_connections=128, max_keepalive_connections=128)  # it keeps 20 otherwise
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
WINDOW_S = 60
COUNT = """
for i, key in ipairs(KEYS) do
  local count = redis.call('INCR', key)
  if count == 1 then redis.call('EXPIRE', key, ARGV[1]) end
  if count > tonumber(ARGV[2]) then return 0 end
end
return 1
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    app.state.count = redis.register_script(COUNT)
    async with redis, httpx.AsyncClient(base_url=os.environ["SERVICE_URL"], limits=LIMITS) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


def caller_of(request: Request) -> str:
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(
            token, os.environ["JWT_SECRET_KEY"], algorithms=["HS256"], audience="shop", issuer="user_service"
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401, "Invalid token") from None
    return claims["sub"]


@app.api_route("/{path:path}", methods=METHODS)
async def proxy(request: Request) -> Response:
    started, request_id = time.perf_counter(), str(uuid.uuid4())
    caller, window = caller_of(request), int(time.time() // WINDOW_S)
    names = (f"user:{caller}", f"address:{request.client.host}", "all")
    keys = [f"{name}:{window}" for name in names]
    if not await request.app.state.count(keys, [WINDOW_S, os.environ["RATE_LIMIT_REQUESTS"]]):
        raise HTTPException(429, "Rate limit exceeded")
    answer = await request.app.state.client.request(
        request.method,
        request.url.path,
        params=request.query_params,
        headers=[(name, value) for name, value in request.headers.items() if name not in DROPPED]
        + [("X-Request-ID", request_id), ("X-User-Id", caller)],
        content=await request.body(),
    )
    line = {
        "event": "request",
        "request_id": request_id,
        "user": caller,
        "method": request.method,
        "path": request.url.path,
        "status": answer.status_code,
        "ms": round((time.perf_counter() - started) * 1000, 2),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    headers = {name: value for name, value in answer.headers.items() if name not in DROPPED | {"content-encoding"}}
    return Response(answer.content, answer.status_code, headers | {"X-Request-ID": request_id})
