"""Who is measured, with which tokens and routes; what is missing is named."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest

from bench import environment, service
from bench.callers import Callers, with_token
from bench.gateways import SERVICES, more_services, path_of
from bench.phases import Bench, Plan, Subject
from bench.redis_counting import CountingRedis
from bench.results import Results
from bench.servers import PEERS, PEERS_KNOWN, Server, Service, Starter, configured
from deploy.local.child import NotStarted
from gateway import create_app
from tests.unit import parts

THERE = environment.Environment(Path("nowhere"), {})


def test_the_gateways_token_is_good_and_a_forged_one_is_not() -> None:
    callers = Callers()

    def subject_of(token: str) -> str:
        key = callers.key.private.public_key()
        return str(jwt.decode(token, key, ["EdDSA"], audience="shop", issuer="user_service")["sub"])  # pyright: ignore[reportArgumentType]

    assert subject_of(callers.token("u7")) == "u7"
    with pytest.raises(jwt.InvalidSignatureError):
        subject_of(callers.forged_token())


def test_many_users_have_tokens_of_their_own_and_share_a_thousand_addresses(tmp_path: Path) -> None:
    lines = [line.split() for line in Callers().write_users(tmp_path / "users", 1_100).read_text().splitlines()]

    assert (len({token for token, _ in lines}), len({address for _, address in lines})) == (1_100, 1_000)


def test_every_forgery_differs_and_none_is_good(tmp_path: Path) -> None:
    callers = Callers()
    tokens = [line.split()[0] for line in callers.write_forgeries(tmp_path / "users", 5).read_text().splitlines()]

    assert len(set(tokens)) == 5
    for token in tokens:
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, callers.key.private.public_key(), ["EdDSA"], audience="shop")  # pyright: ignore[reportArgumentType]


def test_a_token_goes_into_a_header_that_wrk_takes() -> None:
    assert with_token("abc")[-1] == "Authorization: Bearer abc"


@pytest.mark.parametrize("routes", [10, 1_000])
def test_the_gateway_has_so_many_routes_and_no_more(tmp_path: Path, routes: int) -> None:
    file = tmp_path / "services.yaml"
    text = SERVICES.format(url="http://127.0.0.1:1", users="http://127.0.0.1:2", closed=3)
    file.write_text(text + "\n".join(more_services("http://127.0.0.1:1", routes)))

    caller = create_app(parts.settings(gateway_services=file)).test_client(use_cookies=False)

    def code(path: str) -> str:
        return str((caller.get(path).json or {})["code"])

    assert {code(path_of(route)) for route in (0, 9, routes // 2, routes - 1)} == {"TOKEN_REQUIRED"}
    assert code(path_of(routes)) == "SERVICE_NOT_FOUND"


def test_peers_get_their_places_filled_in(tmp_path: Path) -> None:
    templates = [peer.file for peer in PEERS_KNOWN if not peer.file.endswith((".py", ".js"))]

    for template in (*templates, "service.conf"):
        text = configured(template, tmp_path, port=24_001, service_port=24_002).read_text()
        assert "24001" in text
        assert "@" not in text


def test_every_peer_has_its_file() -> None:
    assert [peer.name for peer in PEERS_KNOWN if not (PEERS / peer.file).exists()] == []


def test_what_is_not_installed_is_named_and_nothing_is_fetched(tmp_path: Path) -> None:
    there = environment.prepare(tmp_path / "bench", may_install=False)

    assert not there.has("python")
    assert "`make bench` installs" in there.missing["python"]
    assert list(there.folder.iterdir()) == []


def test_peers_that_are_not_here_are_skipped_by_name(tmp_path: Path) -> None:
    there = environment.Environment(tmp_path, {"caddy": "no caddy", "python": "no FastAPI", "node": "no npm"})
    bench = Bench(tmp_path, Service(1, 2, "nginx"), CountingRedis(tmp_path), Callers(), there, print)
    results = Results()

    subjects = bench.subjects(Plan.full(time.monotonic()), results)

    assert [subject.name for subject in subjects] == [
        "nginx",
        "HAProxy",
        "Flask as usual",
        "this gateway, fast worker",
        "this gateway, stock worker",
        "this gateway, fast worker x 2",
        "this gateway, stock worker x 2",
    ]
    assert results.skipped == {
        peer.name: there.missing[peer.needs] for peer in PEERS_KNOWN if peer.needs in there.missing
    }


def test_a_peer_that_can_not_be_started_is_skipped_and_the_gateway_is_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Service(1, 2, "nginx"), CountingRedis(tmp_path), Callers(), THERE, print)
    plan, results = Plan.quick(time.monotonic()), Results()

    def start(_starter: Starter) -> Server:
        raise NotStarted("it ended with code 1")

    with bench.running([Subject("peer", start, ())], plan, results) as cases:
        assert cases == []
    assert results.skipped == {"peer": "it ended with code 1"}
    with pytest.raises(NotStarted), bench.running([Subject("ours", start, (), is_ours=True)], plan, results):
        pytest.fail("it was measured")


@pytest.mark.parametrize(
    ("path", "length"),
    [("/items/1", len(service.SMALL)), ("/items/large", len(service.LARGE)), ("/kept/1", len(service.SMALL))],
    ids=["small", "large", "kept"],
)
def test_the_services_answers_have_the_length_that_they_say(path: str, length: int) -> None:
    head, _, body = service.item(path).partition(b"\r\n\r\n")

    assert f"Content-Length: {length}".encode() in head
    assert len(body) == length
    assert (b"Cache-Control" in head) is path.startswith("/kept/")


def test_a_chunked_answer_of_the_service_is_whole() -> None:
    head, _, body = service.item("/items/chunked").partition(b"\r\n\r\n")

    assert b"Transfer-Encoding: chunked" in head
    assert body == b"%x\r\n%b\r\n0\r\n\r\n" % (len(service.SMALL), service.SMALL)
