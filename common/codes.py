"""Every `code` that a problem document can carry: stable names, what they mean, and the way out.

`docs/errors.md` and the gateway's `/problems` page are made from this table; a test holds it against the code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """`status` is the HTTP status it comes with; `way_out` tells the caller, or the operator, what to do."""

    name: str
    status: int
    meaning: str
    way_out: str

    @property
    def slug(self) -> str:
        """The last part of the problem's `type`."""
        return self.name.lower().replace("_", "-")


CODES = (
    Code("BAD_REQUEST", 400, "The request could not be understood.", "Check that the JSON is well-formed."),
    Code("MALFORMED_REQUEST", 400, "Not well-formed HTTP/1.1.", "Look for odd line ends, lengths or methods."),
    Code("MALFORMED_HOST", 400, "No, several or malformed Host fields.", "Send one Host field."),
    Code("UNSAFE_PATH", 400, "A path that could be read in two ways.", "Write it without .. %2e %2f %5c \\ and NUL."),
    Code("UNSUPPORTED_TARGET", 400, "A request target such as `*`.", "Ask for a path that begins with a slash."),
    Code("AMBIGUOUS_CREDENTIALS", 400, "More than one credential.", "Send a token or an API key, not both."),
    Code("INCOMPLETE_BODY", 400, "The body ended before its announced length.", "Send all of it."),
    Code("UNAUTHORIZED", 401, "Not without credentials.", "Log in and send the token."),
    Code("TOKEN_REQUIRED", 401, "There is no token.", "Send `Authorization: Bearer <token>`."),
    Code("INVALID_TOKEN", 401, "The token is expired, malformed or not ours.", "Log in again."),
    Code("INVALID_API_KEY", 401, "The API key is misspelt, unknown, expired or revoked.", "Make a new one."),
    Code("WRONG_CREDENTIALS", 401, "Unknown name or wrong password; which, is not told.", "Check both."),
    Code("SECOND_FACTOR_REQUIRED", 401, "The password is right; the account wants a code too.", "Send it as `otp`."),
    Code("INVALID_REFRESH_TOKEN", 401, "The refresh token is unknown, expired or its session ended.", "Log in again."),
    Code("REFRESH_REUSED", 401, "The refresh token was used before; its session was ended for that.", "Log in again."),
    Code("FORBIDDEN", 403, "Not allowed.", "Ask an administrator."),
    Code("ADDRESS_REFUSED", 403, "Not from this address.", "Call from a network that `allow_from` names."),
    Code("ROLE_REQUIRED", 403, "The token is good but lacks a role.", "Call as somebody who has the role named."),
    Code("PERMISSION_REQUIRED", 403, "The token is good but lacks a permission.", "`detail` names what is missing."),
    Code("SESSION_REQUIRED", 403, "For people who logged in; an API key won't do.", "Log in and send the token."),
    Code("SECOND_FACTOR_NEEDED", 403, "For those who logged in with a second factor.", "Log in again with `otp`."),
    Code("CSRF_REFUSED", 403, "A cookie alone does not show intent.", "Send X-CSRF-Token, from a page of ours."),
    Code("ORIGIN_REFUSED", 403, "CORS_ORIGINS does not list the page's origin.", "Call from one that is listed."),
    Code("NO_COOKIE_SESSIONS", 400, "No sessions in cookies here.", "Use HTTPS; COOKIE_SESSIONS switches them on."),
    Code("BEYOND_ONES_OWN", 403, "One gives only what one may do oneself.", "`detail` names what that would be."),
    Code("WRONG_PASSWORD", 403, "The current password is wrong.", "Try again with the right one."),
    Code("WRONG_OTP", 403, "The code is wrong, too old, or was used before.", "Wait for the next; check the clock."),
    Code("NOT_FOUND", 404, "There is nothing at this address.", "Check the path."),
    Code("SERVICE_NOT_FOUND", 404, "No service has this prefix.", "The answer lists those that there are."),
    Code("ROUTE_NOT_FOUND", 404, "The service is there, this address of it is not.", "Check the path."),
    Code("UNKNOWN_VERSION", 404, "There is no such API version (400 when a header asked).", "Use one that is listed."),
    Code("USER_NOT_FOUND", 404, "There is no such user, or it is not yours to see.", "Check the id."),
    Code("SESSION_NOT_FOUND", 404, "There is no such session, or it is not yours.", "GET /users/sessions lists yours."),
    Code("ROLE_NOT_FOUND", 404, "There is no such role.", "Look at /users/roles."),
    Code("API_KEY_NOT_FOUND", 404, "There is no such API key, or it is not yours.", "Check the id."),
    Code("PRODUCT_NOT_FOUND", 404, "There is no such product.", "Check the id."),
    Code("ORDER_NOT_FOUND", 404, "There is no such order, or it is not yours.", "Check the id."),
    Code("RESERVATION_NOT_FOUND", 404, "There is no such reservation.", "Between services only."),
    Code("METHOD_NOT_ALLOWED", 405, "The address does not take this method.", "`Allow` lists those it takes."),
    Code("REQUEST_TIMEOUT", 408, "Head or body of the request came too slowly.", "Send it faster."),
    Code("CONFLICT", 409, "Against the present state.", "Read it again and decide."),
    Code("USERNAME_TAKEN", 409, "The name is taken, in any spelling of its case.", "Choose another."),
    Code("ROLE_PROTECTED", 409, "A built-in role, or a part of `admin` that stays.", "Make another role."),
    Code("LAST_ADMINISTRATOR", 409, "There would be no administrator left.", "Make another one first."),
    Code("TOO_MANY_API_KEYS", 409, "No more keys for this user.", "Delete one that is not used."),
    Code("API_KEY_NOT_ACTIVE", 409, "The key was revoked, replaced or has expired.", "Make a new one."),
    Code("SECOND_FACTOR_ACTIVE", 409, "There is a second factor already.", "Remove it first."),
    Code("SECOND_FACTOR_NOT_ENROLLED", 409, "There is no second factor.", "POST /users/second-factor first."),
    Code("OUT_OF_STOCK", 409, "Not enough pieces; `errors` says of what, and how many are left.", "Order fewer."),
    Code("RESERVATION_CONFLICT", 409, "The reservation has other lines or was released.", "Between services only."),
    Code("RESERVATION_EXPIRED", 409, "The stock is no longer held.", "Between services only."),
    Code(
        "PAYLOAD_TOO_LARGE", 413, "The body is over the limit.", "Send less; MAX_REQUEST_SIZE or `max_body` raise it."
    ),
    Code("URI_TOO_LONG", 414, "The request line is over 8 KB.", "Put it into a body."),
    Code("UNSUPPORTED_MEDIA_TYPE", 415, "The body is not JSON.", "Send `Content-Type: application/json`."),
    Code("EXPECTATION_FAILED", 417, "An expectation other than 100-continue.", "Leave the Expect field out."),
    Code("VALIDATION_ERROR", 422, "Well-formed, but fields are wrong.", "`errors` names each."),
    Code("CONFIGURATION_REFUSED", 422, "The services file has faults; the one in force stays.", "`errors` names each."),
    Code("PASSWORD_TOO_SHORT", 422, "The new password is too short.", "Choose a longer one."),
    Code("PASSWORD_DENIED", 422, "The new password is well known, or the username.", "Choose another."),
    Code("UNKNOWN_PRODUCT", 422, "An order for a product that does not exist.", "`errors` names it."),
    Code(
        "RATE_LIMIT_EXCEEDED",
        429,
        "Too many requests; `limit` and `tier` name which limit.",
        "Wait for `Retry-After` seconds.",
    ),
    Code("LOGIN_BLOCKED", 429, "Password or code were wrong too often.", "Wait for `Retry-After` seconds."),
    Code("HEADERS_TOO_LARGE", 431, "More than 100 header fields, or one over 16 KB.", "Send fewer or smaller ones."),
    Code("INTERNAL_ERROR", 500, "A fault of ours; it is in our log.", "Tell the operator the request id."),
    Code("NOT_IMPLEMENTED", 501, "A transfer coding other than chunked.", "Send a length or chunks."),
    Code("METHOD_NOT_IMPLEMENTED", 501, "CONNECT and TRACE are not offered.", "There is no way."),
    Code("BAD_GATEWAY", 502, "The service failed.", "Look at /health/services."),
    Code("SERVICE_UNREACHABLE", 502, "No connection to the service, tried twice.", "Is it running? /health/services."),
    Code(
        "SERVICE_NOT_TRUSTED", 502, "TLS with the service fails.", "`call_failed` in the log says why; see docs/tls.md."
    ),
    Code(
        "BAD_ANSWER", 502, "The service broke off, or what it sent is not HTTP.", "Look for its log lines of this id."
    ),
    Code("SERVICE_UNAVAILABLE", 503, "Not available just now.", "Wait for `Retry-After` seconds."),
    Code("CIRCUIT_OPEN", 503, "The service failed repeatedly and is left alone.", "It is tried again by itself."),
    Code("NO_INSTANCE", 503, "No instance is known, or all are drained.", "Is it up, and in /services?"),
    Code("MAINTENANCE", 503, "The service is being worked on.", "Wait for `Retry-After` seconds."),
    Code("OVERLOADED", 503, "More requests than can be borne; none was sent.", "Wait for `Retry-After` seconds."),
    Code("SERVICE_BUSY", 503, "All connections to the service are in use.", "Wait; BACKEND_POOL_SIZE raises it."),
    Code("LIMITS_UNAVAILABLE", 503, "Requests can't be counted now, and this one must be.", "Is Redis running?"),
    Code("IDENTITY_UNAVAILABLE", 503, "No key to verify tokens with could be had.", "Is user_service running?"),
    Code("DATABASE_UNAVAILABLE", 503, "The service's database does not answer.", "It recovers by itself."),
    Code("EXPORT_UNAVAILABLE", 503, "A service that holds a part of it could not be asked.", "Try again."),
    Code("PRODUCTS_UNAVAILABLE", 503, "product_service could not be asked; nothing was ordered.", "Try again."),
    Code("GATEWAY_TIMEOUT", 504, "Out of time.", "Try again."),
    Code("SERVICE_TIMEOUT", 504, "The service did not answer in time.", "Try again; REQUEST_TIMEOUT, `timeout_s`."),
    Code("DEADLINE_EXCEEDED", 504, "The time was over before the work began.", "Allow more with X-Request-Timeout-Ms."),
    Code("NOT_CACHED", 504, "Only a kept answer was asked for, and there is none.", "Leave only-if-cached out."),
)
