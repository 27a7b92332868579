"""FastAPI in front of one pooled aiohttp session: no policy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request, Response

DROPPED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(os.environ["SERVICE_URL"], auto_decompress=False) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.api_route("/{path:path}", methods=METHODS)
async def proxy(request: Request) -> Response:
    headers = [(name, value) for name, value in request.headers.items() if name not in DROPPED]
    async with request.app.state.session.request(
        request.method,
        request.url.path,
        params=request.query_params,
        headers=headers,
        data=await request.body(),
    ) as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in DROPPED}
        return Response(await answer.read(), answer.status, kept)
