"""What a web page does: a session in cookies from login to logout; and what all answers of the shop tell a browser."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

import pytest
import requests

from common.security_headers import FIELDS
from tests.support.processes import wait_until
from tests.support.shop import Shop

SETTINGS = {
    "RATE_LIMIT_REQUESTS": "100000",
    "GATEWAY_SERVICES": "tests/e2e/services.yaml",
    "COOKIE_SESSIONS": "true",
    "WEB_CONCURRENCY": "1",
}
COOKIE_MODE = {"X-Session-Mode": "cookie"}
NOTHING: Mapping[str, str] = {}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    with Shop(tmp_path_factory.mktemp("page"), SETTINGS) as running:
        yield running


class Page:
    """A browser that keeps cookies by their path, and a script that sends the CSRF token."""

    def __init__(self, shop: Shop, name: str) -> None:
        shop.register(name)
        self._url, self.browser = shop.url, requests.Session()
        self._csrf = ""
        self.login = self.call("POST", "/login", {"username": name, "password": "password123"}, COOKIE_MODE)
        self._csrf = self.login.json()["csrf_token"]

    def call(
        self, method: str, path: str, json: object = None, said: Mapping[str, str] = NOTHING, *, prefix: str = "/auth"
    ) -> requests.Response:
        shown = {"X-CSRF-Token": self._csrf, "Origin": self._url, **said}
        return self.browser.request(method, f"{self._url}{prefix}{path}", json=json, headers=shown, timeout=30)

    @property
    def cookies(self) -> set[str]:
        return set(self.browser.cookies.keys())


def test_session_in_cookies_from_login_to_logout(shop: Shop) -> None:
    page = Page(shop, "page-visitor")
    order = {"lines": [{"product_id": 1, "quantity": 1}]}
    no_token = {"X-CSRF-Token": ""}

    assert page.cookies == {"dev-access", "dev-refresh", "dev-csrf"}
    assert "token" not in page.login.text.replace("csrf_token", "")
    assert page.call("GET", "/profile").json()["username"] == "page-visitor"
    assert page.call("POST", "/orders", order, no_token, prefix="").json()["code"] == "CSRF_REFUSED"
    assert page.call("POST", "/orders", order, {"Origin": "https://evil.example"}, prefix="").status_code == 403
    placed = page.call("POST", "/orders", order, prefix="")
    assert placed.status_code == 201, placed.text
    assert page.call("POST", "/refresh", said=no_token).json()["code"] == "CSRF_REFUSED"
    assert page.call("POST", "/refresh").status_code == 200
    assert page.call("POST", "/orders", order, prefix="").status_code == 201
    assert page.call("POST", "/logout").status_code == 204
    assert page.cookies == set()
    assert page.call("GET", "/profile").status_code == 401


def test_session_that_was_ended_is_over_for_its_cookies(shop: Shop) -> None:
    page = Page(shop, "page-ended")
    stolen = page.browser.cookies.get_dict()

    page.call("POST", "/logout-all")

    def is_over() -> bool:
        return requests.get(f"{shop.url}/users/profile", cookies=stolen, timeout=30).status_code == 401

    wait_until(is_over, "the end of the session to be known", timeout_s=3)


def addresses(shop: Shop) -> Iterator[tuple[str, str]]:
    """Methods and public paths of all that the three services offer."""
    for service in ("users", "orders", "products"):
        document = shop.call("GET", f"/openapi/{service}.json").json()
        for path, methods in document["paths"].items():
            public = path.replace("{", "").replace("}", "")
            if public.split("/")[1] == service:
                yield from ((method.upper(), public) for method in methods)


@pytest.mark.parametrize("who", ["nobody", "customer"])
def test_every_route_tells_browsers_to_make_nothing_of_it_and_personal_data_is_not_kept(shop: Shop, who: str) -> None:
    token = shop.register(f"page-{who}") if who == "customer" else None
    listed = [address for address in addresses(shop) if address != ("POST", "/users/logout-all")]

    for method, path in listed:
        answer = shop.call(method, path, token=token, json={} if method in ("POST", "PUT", "PATCH") else None)
        told = f"{method} {path} {answer.status_code}: {dict(answer.headers)}"

        assert [(name, answer.headers.get(name)) for name, _ in FIELDS] == list(FIELDS), told
        assert "Server" not in answer.headers, told
        if not path.startswith("/products") or answer.status_code >= 400:
            assert "no-store" in answer.headers["Cache-Control"], told
    assert len(listed) > 15


def test_tokens_are_not_kept(shop: Shop) -> None:
    answer = shop.call("POST", "/auth/login", json={"username": "page-nobody-else", "password": "password123"})
    shop.register("page-kept")
    login = shop.call("POST", "/auth/login", json={"username": "page-kept", "password": "password123"})

    assert (answer.status_code, login.status_code) == (401, 200)
    assert answer.headers["Cache-Control"] == login.headers["Cache-Control"] == "no-store"
