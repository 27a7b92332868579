"""The gateway in Flask as tutorials write it: each line the obvious one, and every policy from its own library."""

from __future__ import annotations

import logging
import os
import time
import uuid

import pybreaker
import requests
from flask import Flask, Response, g, jsonify, request
from flask_jwt_extended import JWTManager, get_jwt_identity, jwt_required
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

DROPPED = {"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"}

app = Flask(__name__)
app.config["JWT_SECRET_KEY"] = os.environ["JWT_SECRET_KEY"]
app.config["JWT_DECODE_AUDIENCE"] = "shop"
jwt = JWTManager(app)
rate = f"{os.environ['RATE_LIMIT_REQUESTS']} per minute"
limiter = Limiter(get_remote_address, app=app, storage_uri=os.environ["REDIS_URL"], default_limits=[rate])
breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
logger = logging.getLogger("gateway")


@app.before_request
def start() -> None:
    g.started, g.request_id = time.time(), str(uuid.uuid4())


@app.after_request
def finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    ms = (time.time() - g.started) * 1000
    logger.info("%s %s %s %s %.1f ms", g.request_id, request.method, request.path, response.status_code, ms)
    return response


def forward() -> requests.Response:
    return requests.request(
        request.method,
        os.environ["SERVICE_URL"] + request.full_path,
        headers={name: value for name, value in request.headers if name.lower() != "host"},
        data=request.get_data(),
        timeout=30,
    )


@app.route("/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@jwt_required()
def proxy(path: str) -> Response | tuple[Response, int]:
    g.user = get_jwt_identity()
    try:
        answer = breaker.call(forward)
    except pybreaker.CircuitBreakerError:
        return jsonify(error="Service unavailable"), 503
    except requests.RequestException:
        return jsonify(error="Bad gateway"), 502
    headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in DROPPED]
    return Response(answer.content, answer.status_code, headers)
