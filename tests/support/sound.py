"""Requests that are sound HTTP/1, plain and odd ones, as bytes, for `tests.support.reflecting`."""

from __future__ import annotations

from tests.support.hostile import get, post

METHODS = ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "M-SEARCH"]
ANSWERS = ["chunked", "empty", "big", "ends", "unread", "hints", "breaks", "tears", "injects", "short"]


def for_path(path: str, method: str = "GET", version: str = "1.1") -> bytes:
    return get(line=f"{method} /{path} HTTP/{version}".encode())


def unread(fields: bytes, body: bytes) -> bytes:
    return post(fields, body).replace(b"/open/x", b"/unread")


SOUND = {
    "as usual": get(b"User-Agent: x/1\r\nAccept: */*\r\nAuthorization: Bearer a.b.c\r\n"),
    "query": get(line=b"GET /open/x?a=1&b=%20?c HTTP/1.1"),
    "empty query": get(line=b"GET /open/x? HTTP/1.1"),
    "escapes": get(line=b"GET /%41%2f%c3%a9%zz%?%41 HTTP/1.1"),
    "two slashes": get(line=b"GET //a//b HTTP/1.1"),
    "colons": get(line=b"GET //a:b@c:80/d:e HTTP/1.1"),
    "brackets": get(line=b"GET //[x HTTP/1.1"),
    "odd signs": get(line=b"GET /\"<>^`{|}'()*!$&,;=:@+\\~ HTTP/1.1"),
    "dots": get(line=b"GET /a/../b/./.. HTTP/1.1"),
    "fragment": get(line=b"GET /a?b#c HTTP/1.1"),
    "absolute": get(line=b"GET http://b/c?d HTTP/1.1"),
    "star": get(line=b"OPTIONS * HTTP/1.1"),
    "HTTP/1.0": get(line=b"GET /a HTTP/1.0"),
    "HTTP/1.0 that stays": get(b"Connection: keep-alive\r\n", line=b"GET /a HTTP/1.0"),
    **{f"{method} without a body": for_path("a", method) for method in METHODS},
    "length": unread(b"Content-Length: 4\r\nContent-Type: text/plain\r\n", b"body"),
    "length zero": post(b"Content-Length: 0\r\n"),
    "length with zeros": post(b"Content-Length: 0004\r\n", b"body"),
    "length of a GET": get(b"Content-Length: 4\r\n") + b"body",
    "body that is cut": post(b"Content-Length: 40\r\n", b"body"),
    "large body": post(b"Content-Length: 200000\r\n", b"x" * 200_000),
    "body of white space": post(b"Content-Length: 4\r\n", b"\r\n\r\n"),
    "chunks": post(b"Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\nX-T: 1\r\n\r\n"),
    "lines of a body": post(b"Content-Length: 18\r\n", b"one\ntwo\nthree\nfour").replace(b"/open/x", b"/lines"),
    "empty lines before": b"\r\n" + get(),
    "two empty lines before": b"\r\n\r\n" + get(),
    "empty media type": post(b"Content-Type:\r\nContent-Length: 4\r\n", b"body"),
    "empty value": get(b"X-A:\r\n"),
    "value of white space": get(b"X-A: \t \r\n"),
    "white space around": get(b"X-A: \t 1 \t\r\n"),
    "tab within": get(b"X-A: 1\t2\r\n"),
    "not ASCII": get(b"X-A: \xe9\xff\x80\xa0\r\n"),
    "NEL at the ends": get(b"X-A: \x85x\x85\r\n"),
    "no space": get(b"X-A:1\r\n"),
    "colons in a value": get(b"X-A: a:b: c\r\n"),
    "odd name": get(b"!#$%&'*+-.^`|~09aZ: 1\r\n"),
    "underscore": get(b"X_User_Id: 1\r\nContent_Length: 5\r\n"),
    "SCRIPT_NAME": get(b"Script_Name: /open\r\nScript-Name: /open\r\nPath-Info: /x\r\n"),
    "repeated": get(b"X-A: 1\r\nX-B: 2\r\nx-a: 3\r\nCookie: a=1\r\nCookie: b=2\r\n"),
    "names of the environment": get(b"Host-: a\r\nHTTP-HOST: b\r\nRemote-Addr: 1.2.3.4\r\nProxy: http://x\r\n"),
    "forwarded": get(b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Ssl: on\r\n"),
    "close": get(b"Connection: close\r\n"),
    "CLOSE": get(b"Connection: CLOSE\r\n"),
    "close among others": get(b"Connection: x, close\r\n"),
    "keep-alive": get(b"Connection: Keep-Alive\r\n"),
    "upgrade": get(b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "upgrade alone": get(b"Upgrade: websocket\r\n"),
    "h2c": get(b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n"),
    "expecting": post(b"Expect: 100-continue\r\nContent-Length: 4\r\n", b"body"),
    "expecting, and not asked": post(b"Expect: 100-continue\r\nContent-Length: 4\r\n", b"body"),
    "no Host": b"GET /a HTTP/1.1\r\nX-A: 1\r\n\r\n",
    "no field": b"GET /a HTTP/1.1\r\n\r\n",
    "no field in HTTP/1.0": b"GET /a HTTP/1.0\r\n\r\n",
    "empty Host": b"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    "100 fields": get(b"".join(b"X-%d: 1\r\n" % number for number in range(99))),
    "line of 8190": get(line=b"GET /" + b"x" * 8176 + b" HTTP/1.1"),
    "line of 8191": get(line=b"GET /" + b"x" * 8177 + b" HTTP/1.1"),
    "field of 16380": get(b"X: " + b"x" * (16380 - 5) + b"\r\n"),
    "field of 16381": get(b"X: " + b"x" * (16381 - 5) + b"\r\n"),
    "fields of 70000": get(b"".join(b"X-%d: %b\r\n" % (number, b"x" * 14_000) for number in range(5))),
    **{f"GET /{answer}": for_path(answer) for answer in ANSWERS},
    **{f"HEAD /{answer}": for_path(answer, "HEAD") for answer in ANSWERS if answer != "tears"},
    **{f"GET /{answer} HTTP/1.0": for_path(answer, version="1.0") for answer in ANSWERS if answer != "big"},
    "body that nobody reads": unread(b"Content-Length: 4\r\n", b"body"),
    "large body that nobody reads": unread(b"Content-Length: 200000\r\n", b"x" * 200_000),
    "chunks that nobody reads": unread(b"Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\n\r\n"),
}
