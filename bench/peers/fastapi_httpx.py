"""FastAPI in front of one pooled httpx client, as it is usually written: no policy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response

DROPPED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
LIMITS = httpx.Limits(max_connections=128, max_keepalive_connections=128)  # it keeps 20 otherwise
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["SERVICE_URL"], limits=LIMITS) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.api_route("/{path:path}", methods=METHODS)
async def proxy(request: Request) -> Response:
    answer = await request.app.state.client.request(
        request.method,
        request.url.path,
        params=request.query_params,
        headers=[(name, value) for name, value in request.headers.items() if name not in DROPPED],
        content=await request.body(),
    )
    headers = {name: value for name, value in answer.headers.items() if name not in DROPPED | {"content-encoding"}}
    return Response(answer.content, answer.status_code, headers)
