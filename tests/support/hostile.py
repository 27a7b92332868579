"""Requests in the shapes that attackers and broken clients send, as bytes, each with the name of what is wrong."""

from __future__ import annotations

TOKEN = b"a.b.c"
"""Put a real one in its place."""

HOST = b"Host: a\r\n"
BODY = b"Content-Length: 4\r\n\r\nbody"


def get(fields: bytes = b"", *, line: bytes = b"GET /open/x HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /open/x HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def request(*fields: bytes, line: bytes = b"POST /open/x HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(fields) + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 5\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# each is followed by a whole request that a server with another idea of the framing would serve
DOUBTFUL_FRAMING = {
    "CL.TE": request(b"Content-Length: 5\r\n", CHUNKED) + LAST_CHUNK,
    "TE.CL": request(CHUNKED, b"Content-Length: 3\r\n") + b"1\r\nx\r\n0\r\n\r\n",
    "CL.CL, equal": request(LENGTH, LENGTH) + b"xxxxx",
    "CL.CL, different": request(b"Content-Length: 0\r\n", LENGTH) + b"xxxxx",
    "CL in two cases": request(LENGTH, b"content-length: 0\r\n") + b"xxxxx",
    "CL as a list": request(b"Content-Length: 5, 5\r\n") + b"xxxxx",
    "CL with a plus": request(b"Content-Length: +5\r\n") + b"xxxxx",
    "CL with a space inside": request(b"Content-Length: 0 5\r\n") + b"xxxxx",
    "CL in hexadecimal": request(b"Content-Length: 0x5\r\n") + b"xxxxx",
    "CL with digits that are none": request("Content-Length: ²\r\n".encode("latin-1")) + b"xx",
    "CL of 5000 digits": request(b"Content-Length: " + b"1" * 5000 + b"\r\n"),
    "CL behind a vertical tab": request(b"Content-Length:\x0b5\r\n") + b"xxxxx",
    "CL and a space before its colon": request(b"Content-Length : 5\r\n") + b"xxxxx",
    "TE twice": request(CHUNKED, CHUNKED) + LAST_CHUNK,
    "TE twice, other case": request(CHUNKED, b"TRANSFER-ENCODING: Chunked\r\n") + LAST_CHUNK,
    "TE twice, the first unknown": request(b"Transfer-Encoding: x\r\n", CHUNKED) + LAST_CHUNK,
    "TE chunked, identity": request(b"Transfer-Encoding: chunked, identity\r\n") + LAST_CHUNK,
    "TE identity, chunked": request(b"Transfer-Encoding: identity, chunked\r\n") + LAST_CHUNK,
    "TE gzip, chunked": request(b"Transfer-Encoding: gzip, chunked\r\n") + LAST_CHUNK,
    "TE xchunked": request(b"Transfer-Encoding: xchunked\r\n") + LAST_CHUNK,
    "TE chunkedx and CL": request(b"Transfer-Encoding: chunkedx\r\n", LENGTH) + b"xxxxx",
    "TE with a comma behind": request(b"Transfer-Encoding: chunked,\r\n") + LAST_CHUNK,
    "TE with a comma before": request(b"Transfer-Encoding: ,chunked\r\n") + LAST_CHUNK,
    "TE in quotes": request(b'Transfer-Encoding: "chunked"\r\n') + LAST_CHUNK,
    "TE with a parameter": request(b"Transfer-Encoding: chunked;q=1\r\n") + LAST_CHUNK,
    "TE empty and CL": request(b"Transfer-Encoding:\r\n", LENGTH) + b"xxxxx",
    "TE behind a vertical tab": request(b"Transfer-Encoding:\x0bchunked\r\n") + LAST_CHUNK,
    "TE behind a form feed": request(b"Transfer-Encoding: \x0cchunked\r\n") + LAST_CHUNK,
    "TE and a NUL": request(b"Transfer-Encoding: chunked\x00\r\n") + LAST_CHUNK,
    "TE and a space before its colon": request(b"Transfer-Encoding : chunked\r\n") + LAST_CHUNK,
    "TE and a tab before its colon": request(b"Transfer-Encoding\t: chunked\r\n") + LAST_CHUNK,
    "TE folded": request(b"Transfer-Encoding:\r\n chunked\r\n") + LAST_CHUNK,
    "TE folded into another field": request(b"X-A: 1\r\n Transfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE behind a bare LF": request(b"X-A: 1\nTransfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE behind a bare CR": request(b"X-A: 1\rTransfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE with a space in front": request(b" Transfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE in HTTP/1.0": request(CHUNKED, line=b"POST /open/x HTTP/1.0") + LAST_CHUNK,
    "head ends with bare LFs": b"POST /open/x HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "head ends with LF CR LF": b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\n\r\n",
    "line of spaces before the end": request(b"Content-Length: 5\r\n \r\n") + b"xxxxx",
    "two empty lines in front": b"\r\n\r\n" + request(b"Content-Length: 0\r\n"),
    "space in front": b" " + request(b"Content-Length: 0\r\n"),
    "space before the end of a line": b"POST /open/x HTTP/1.1 \r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "chunk size with a sign": request(CHUNKED) + b"+5\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size with 0x": request(CHUNKED) + b"0x5\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size with an underscore": request(CHUNKED) + b"0_5\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size with a space": request(CHUNKED) + b"5 \r\nxxxxx\r\n0\r\n\r\n",
    "chunk size missing": request(CHUNKED) + b"\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size behind a bare LF": request(CHUNKED) + b"5\nxxxxx\r\n0\r\n\r\n",
    "chunk that is longer": request(CHUNKED) + b"5\r\nxxxxxx\r\n0\r\n\r\n",
    "chunk without an end": request(CHUNKED) + b"5\r\nxxxxx0\r\n\r\n",
    "chunk that ends with a bare LF": request(CHUNKED) + b"5\r\nxxxxx\n0\r\n\r\n",
    "extension with a bare LF": request(CHUNKED) + b"5;a\nb\r\nxxxxx\r\n0\r\n\r\n",
    "extension with a bare CR": request(CHUNKED) + b"5;a\rb\r\nxxxxx\r\n0\r\n\r\n",
    "extension with a NUL": request(CHUNKED) + b"5;\x00\r\nxxxxx\r\n0\r\n\r\n",
    "extension without a name": request(CHUNKED) + b"5;=1\r\nxxxxx\r\n0\r\n\r\n",
    "extension without an end": request(CHUNKED) + b"5;" + b"a" * 40_000,
    "trailer with a length": request(CHUNKED) + b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer with a token": request(CHUNKED) + b"0\r\nAuthorization: Bearer x\r\n\r\n",
    "trailer with a bare LF": request(CHUNKED) + b"0\r\nX-A: 1\n\r\n",
    "trailer that is folded": request(CHUNKED) + b"0\r\nX-A: 1\r\n 2\r\n\r\n",
}

DOUBTFUL_FIELDS = {
    "no Host": request(host=b""),
    "two Hosts": request(b"Host: b\r\n"),
    "two equal Hosts": request(b"Host: a\r\n"),
    "two Hosts in two cases": request(b"hOST: b\r\n"),
    "empty Host": request(host=b"Host:\r\n"),
    "Host with a path": request(host=b"Host: a/open\r\n"),
    "Host with a user": request(host=b"Host: a@b\r\n"),
    "Host with a NUL": request(host=b"Host: a\x00b\r\n"),
    "Host folded": request(host=b"Host:\r\n a\r\n"),
    "two Content-Types": request(b"Content-Type: a/b\r\nContent-Type: a/b\r\nContent-Length: 0\r\n"),
    "two Authorizations": request(b"Authorization: Bearer " + TOKEN + b"\r\nAuthorization: Basic eA==\r\n"),
    "two equal Authorizations": request(2 * (b"Authorization: Bearer " + TOKEN + b"\r\n")),
    "two Authorizations in two cases": request(b"Authorization: Bearer x\r\nauthorization: Bearer y\r\n"),
    "name with a NUL": request(b"X\x00A: 1\r\n"),
    "name with a vertical tab": request(b"X\x0bA: 1\r\n"),
    "value with a backspace": request(b"X-A: 1\x08\r\n"),
    "value with DEL": request(b"X-A: 1\x7f\r\n"),
}

DOUBTFUL_LINES = {
    "lower-case method": b"post /open/x HTTP/1.1",
    "method with a NUL": b"PO\x00ST /open/x HTTP/1.1",
    "method with a colon": b"POST: /open/x HTTP/1.1",
    "TRACE": b"TRACE /open/x HTTP/1.1",
    "CONNECT": b"CONNECT a:80 HTTP/1.1",
    "CONNECT with a path": b"CONNECT /open/x HTTP/1.1",
    "tunnel by an absolute form": b"GET http://127.0.0.1:22/open/x HTTP/1.1",
    "another scheme": b"GET gopher://a/open/x HTTP/1.1",
    "file": b"GET file:///etc/passwd HTTP/1.1",
    "authority form": b"GET a:80 HTTP/1.1",
    "user in the authority": b"GET http://x@a/open/x HTTP/1.1",
    "star": b"GET * HTTP/1.1",
    "star of OPTIONS": b"OPTIONS * HTTP/1.1",
    "no slash": b"GET open/x HTTP/1.1",
    "empty target": b"GET  HTTP/1.1",
    "fragment": b"GET /open/x#y HTTP/1.1",
    "backslash": b"GET /open\\x HTTP/1.1",
    "NUL": b"GET /open/\x00 HTTP/1.1",
    "two targets": b"GET /open/x /staff HTTP/1.1",
    "HTTP/1.1 twice": b"GET /open/x HTTP/1.1 HTTP/1.1",
    "HTTP/2": b"GET /open/x HTTP/2.0",
    "HTTP/0.9": b"GET /open/x",
}

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no request line": b"\r\n\r\nGET /open/x HTTP/1.1\r\n\r\n",
    "lower-case method": get(line=b"get /open/x HTTP/1.1"),
    "method with a control character": get(line=b"G\x00T /open/x HTTP/1.1"),
    "long method": get(line=b"M" * 300 + b" /open/x HTTP/1.1"),
    "no version": get(line=b"GET /open/x"),
    "version 2.0": get(line=b"GET /open/x HTTP/2.0"),
    "version 1.2 digits": get(line=b"GET /open/x HTTP/1.10"),
    "lower-case version": get(line=b"GET /open/x http/1.1"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two spaces": get(line=b"GET  /open/x HTTP/1.1"),
    "space in the target": get(line=b"GET /open/x y HTTP/1.1"),
    "tab for a space": get(line=b"GET\t/open/x\tHTTP/1.1"),
    "target without a slash": get(line=b"GET open/x HTTP/1.1"),
    "target not ASCII": get(line=b"GET /open/\xc3\xa9 HTTP/1.1"),
    "NUL in the target": get(line=b"GET /open/\x00 HTTP/1.1"),
    "bare LF": b"GET /open/x HTTP/1.1\nHost: a\n\n",
    "one bare LF": b"GET /open/x HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n",
    "bare CR in a value": get(b"X-A: 1\r2\r\n"),
    "folded line": get(b"X-A: 1\r\n  2\r\n"),
    "space before the colon": get(b"X-A : 1\r\n"),
    "space before the name": b"GET /open/x HTTP/1.1\r\n Host: a\r\n\r\n",
    "no colon": get(b"X-A\r\n"),
    "empty name": get(b": 1\r\n"),
    "name not a token": get(b"X(A): 1\r\n"),
    "name not ASCII": get(b"X-\xe9: 1\r\n"),
    "NUL in a value": get(b"X-A: 1\x002\r\n"),
    "two lengths": post(b"Content-Length: 4\r\nContent-Length: 5\r\n", b"body!"),
    "two equal lengths": post(b"Content-Length: 4\r\nContent-Length: 4\r\n", b"body"),
    "list of lengths": post(b"Content-Length: 4, 4\r\n", b"body"),
    "signed length": post(b"Content-Length: +4\r\n", b"body"),
    "negative length": post(b"Content-Length: -4\r\n", b"body"),
    "underscored length": post(b"Content-Length: 0_4\r\n", b"body"),
    "hexadecimal length": post(b"Content-Length: 0x4\r\n", b"body"),
    "empty length": post(b"Content-Length:\r\n", b"body"),
    "length in other digits": post("Content-Length: \u00b2\r\n".encode("latin-1"), b"bo"),
    "length and chunks": post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunks and length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "chunked not last": post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity\r\n", b"body"),
    "chunked in HTTP/1.0": b"POST /open/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two media types": post(b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 4\r\n", b"body"),
}

OTHERWISE = {
    "long request line": (get(line=b"GET /open/" + b"x" * 9000 + b" HTTP/1.1"), 414, "URI_TOO_LONG"),
    "endless request line": (b"GET /open/" + b"x" * 20_000, 414, "URI_TOO_LONG"),
    "many fields": (get(b"".join(b"X-%d: 1\r\n" % number for number in range(101))), 431, "HEADERS_TOO_LARGE"),
    "a large field": (get(b"X-Large: " + b"x" * 17_000 + b"\r\n"), 431, "HEADERS_TOO_LARGE"),
    "unknown coding": (post(b"Transfer-Encoding: rot13\r\n", b"body"), 501, "NOT_IMPLEMENTED"),
    "unknown coding before chunked": (post(b"Transfer-Encoding: rot13, chunked\r\n"), 501, "NOT_IMPLEMENTED"),
    "unknown expectation": (post(b"Expect: miracles\r\n" + BODY), 417, "EXPECTATION_FAILED"),
}
