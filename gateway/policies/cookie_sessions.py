"""Sessions in cookies, around the handlers that give, renew and end tokens.

    @begins_session     a login with `X-Session-Mode: cookie`: the tokens of a good answer go into cookies, and the page
                        gets the CSRF token instead
    @renews_session     a refresh without a body, but with the refresh cookie, whose token goes into the body for the
                        service; the answer is treated in the same way
    @ends_session       a logout whose credential was a cookie: the cookies go

Without COOKIE_SESSIONS, and for whoever asks for no cookies, nothing is different. Login asks for a header of its own
because no form of another site can send one: else it could log its visitor in as somebody else. A refresh must show the
CSRF token that stands in the cookie; of the session, which binds it to more, nothing is known yet.
"""

from __future__ import annotations

import io
from functools import wraps

import orjson

from common.keys import InvalidToken, KeysUnavailable
from common.problems import BadGateway, BadRequest
from common.tokens import refusal
from gateway.body import Body
from gateway.cookies import MODE_HEADER, Jar, Kind
from gateway.exchange import Answer, Exchange, Handler
from gateway.policies.layers import layer

LARGEST_BYTES = 64 << 10
_TOKENS = ("access_token", "refresh_token", "token_type")


def begins_session(handler: Handler) -> Handler:
    @layer("begins_session", _judge)
    @wraps(handler)
    def begun(exchange: Exchange) -> Answer:
        if exchange.headers.get(MODE_HEADER) != "cookie":
            return handler(exchange)
        jar = _jar(exchange)
        exchange.runtime.browsers.check_page(exchange.headers, exchange.forwarding)
        return _in_cookies(exchange, jar, handler)

    return begun


def renews_session(handler: Handler) -> Handler:
    @layer("renews_session", _judge)
    @wraps(handler)
    def renewed(exchange: Exchange) -> Answer:
        browsers = exchange.runtime.browsers
        jar = browsers.jar(exchange.forwarding)
        token = _cookie(exchange, jar, "refresh") if jar else ""
        if jar is None or not token or exchange.body.length != 0:
            return handler(exchange)
        browsers.check_page(exchange.headers, exchange.forwarding)
        browsers.check_intent(_cookie(exchange, jar, "csrf"), exchange.headers)
        raw = orjson.dumps({"refresh_token": token})
        exchange.body = Body(io.BytesIO(raw), len(raw))
        exchange.headers = {**exchange.headers, "content-type": "application/json"}
        return _in_cookies(exchange, jar, handler)

    return renewed


def ends_session(handler: Handler) -> Handler:
    @layer("ends_session", _judge)
    @wraps(handler)
    def ended(exchange: Exchange) -> Answer:
        answer = handler(exchange)
        jar = exchange.runtime.browsers.jar(exchange.forwarding)
        if jar and answer.status < 300 and "authorization" not in exchange.headers and _cookie(exchange, jar, "access"):
            answer.headers += [
                jar.set("access", "", max_age_s=0),
                jar.set("refresh", "", path=_refresh_path(exchange), max_age_s=0),
                jar.set("csrf", "", max_age_s=0),
            ]
        return answer

    return ended


def _judge(exchange: Exchange, _may_look: bool) -> str:
    return "cookies may be asked for" if exchange.runtime.browsers.secret else "there are no sessions in cookies"


def _jar(exchange: Exchange) -> Jar:
    jar = exchange.runtime.browsers.jar(exchange.forwarding)
    if jar is None:
        raise BadRequest(
            "There are no sessions in cookies here: COOKIE_SESSIONS is off, or the connection is not HTTPS.",
            code="NO_COOKIE_SESSIONS",
        )
    return jar


def _in_cookies(exchange: Exchange, jar: Jar, handler: Handler) -> Answer:
    """The answer of `handler`, its tokens, if it has some, in cookies."""
    exchange.headers = {name: value for name, value in exchange.headers.items() if name != "accept-encoding"}
    answer = handler(exchange)
    if answer.status != 200:
        return answer
    document = _document(answer)
    access, refresh = str(document.get("access_token")), document.get("refresh_token")
    try:
        identity = exchange.runtime.verifier.verify(access)
    except (InvalidToken, KeysUnavailable) as error:
        raise refusal(error) from error
    csrf = exchange.runtime.browsers.csrf_token(identity)
    lasts_s = _seconds(document, "refresh_expires_in")
    cookies = [jar.set("access", access, max_age_s=_seconds(document, "expires_in"))]
    cookies += [jar.set("csrf", csrf, max_age_s=lasts_s)]
    if isinstance(refresh, str):
        cookies.append(jar.set("refresh", refresh, path=_refresh_path(exchange), max_age_s=lasts_s))
    told = {name: value for name, value in document.items() if name not in _TOKENS}
    return _replaced(answer, orjson.dumps({**told, "csrf_token": csrf}), cookies)


def _document(answer: Answer) -> dict[str, object]:
    raw = bytearray()
    try:
        for piece in answer.body:
            raw += piece
            if len(raw) > LARGEST_BYTES:
                break
        document: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    finally:
        answer.close()
    if not isinstance(document, dict):
        raise BadGateway("The service's answer has no tokens that could go into cookies.", code="BAD_ANSWER")
    return {str(name): value for name, value in document.items()}


def _replaced(answer: Answer, body: bytes, cookies: list[tuple[str, str]]) -> Answer:
    gone = ("content-length", "cache-control", "etag")
    kept = [(name, value) for name, value in answer.headers if name.lower() not in gone]
    own = [("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    return Answer(answer.status, [*kept, *own, *cookies], (body,), answer.instance_url, answer.protocol)


def _seconds(document: dict[str, object], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) else None


def _cookie(exchange: Exchange, jar: Jar, kind: Kind) -> str:
    return jar.read(kind, exchange.headers.get("cookie", ""))


def _refresh_path(exchange: Exchange) -> str:
    """Beside the route that was called: `/api/v1/auth/login` and `/api/v1/auth/refresh`."""
    return "/".join(["", *exchange.target.segments[: exchange.prefix_segments], "refresh"])
