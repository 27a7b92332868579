"""The services file: what may stand in it, what is filled in, and that each fault is told with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from limits import parse

from common.yaml_file import parse as parse_yaml
from gateway.backend.standing import EjectionRule
from gateway.notation import parse_address, parse_rate
from gateway.services import Address, LoadRule, Service, ServicesError, Sources, configuration_of, load_services
from gateway.settings import GatewaySettings, service_urls
from tests.unit import parts

Load = Callable[..., dict[str, Service]]
FULL = """
services:
  students:
    url: http://127.0.0.1:5005/
    aliases: [student, pupils]
    path: /v2/students/
    roles: [admin, teacher]
    cache: true
    limits:
      default: 1000/2hours
      login: 5 per second
    max_body: 512 KB
    timeout_s: 2.5
    try_timeout_s: 1
    connect_timeout_s: 0.5
    balance: hash
    hash_by: header:X-Tenant
    retries: 2
    retry_on: [503]
    retry_budget: 0.1
"""


def urls_of(service: Service) -> tuple[str, ...]:
    return tuple(address.url for address in service.sources.static)


@pytest.fixture(scope="module")
def settings() -> GatewaySettings:
    return parts.settings(rate_limit_requests=7, rate_limit_window=30, request_timeout=9, max_request_size="1MB")


@pytest.fixture
def load(tmp_path: Path, settings: GatewaySettings) -> Load:
    """Loads a file with this text."""

    def load(text: str | bytes, urls: Mapping[str, str] | None = None) -> dict[str, Service]:
        file = tmp_path / "s.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return dict(load_services(file, settings, urls or {}).services)

    return load


@pytest.fixture
def faults(load: Load, tmp_path: Path) -> Callable[..., list[str]]:
    """What is wrong with a file, each fault without the folder."""

    def faults(text: str | bytes, urls: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ServicesError) as caught:
            load(text, urls)
        return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return faults


def test_an_address_is_enough_and_everything_else_has_a_default(load: Load) -> None:
    service = load("services: {things: {url: 'https://things.internal'}}")["things"]

    assert service == Service(
        name="things",
        sources=Sources((Address("https://things.internal"),)),
        prefixes=("/things",),
        limits={"default": parse("7 per 30 second")},
        max_body_bytes=1 << 20,
        timeout_s=9,
        try_timeout_s=9,
        connect_timeout_s=2,
        ejection=EjectionRule(),
        load=LoadRule(200, 100, 0.5),
    )


def test_everything_in_the_file_is_taken_over(load: Load) -> None:
    assert load(FULL)["students"] == Service(
        name="students",
        sources=Sources((Address("http://127.0.0.1:5005"),)),
        prefixes=("/students",),
        path="/v2/students",
        roles=("admin", "teacher"),
        is_cached=True,
        limits={"default": parse("1000/2hours"), "login": parse("5/second")},
        max_body_bytes=512 << 10,
        timeout_s=2.5,
        try_timeout_s=1,
        connect_timeout_s=0.5,
        balance="hash",
        hash_by="header:X-Tenant",
        retries=2,
        retry_on=frozenset({503}),
        retry_budget=0.1,
        ejection=EjectionRule(),
        load=LoadRule(200, 100, 0.5),
    )


def test_a_slash_as_path_strips_the_prefix(load: Load) -> None:
    assert load("services: {things: {url: 'http://h', path: /}}")["things"].path == ""


def test_an_unknown_limit_is_the_default_one(load: Load) -> None:
    service = load(FULL)["students"]

    assert service.limit("login") == parse("5/second")
    assert service.limit("export") == service.limit("default") == parse("1000/2hours")


def rules_of(text: str, settings: GatewaySettings) -> dict[str, Service]:
    """By path, the service as it is for each route of `a`."""
    configuration = configuration_of(parse_yaml(text, "f"), settings, {})
    return {rule.template: rule.service for rule in configuration.routes["a"]}


@pytest.mark.parametrize(
    ("service", "route", "is_public", "roles"),
    [
        ("cache: false", "cache: true", False, ()),
        ("public: true", "cache: true", True, ()),
        ("public: true", "public: false", False, ()),
        ("public: true", "roles: [x]", False, ("x",)),  # who names roles does not mean everybody
        ("public: true", "roles: []", False, ()),
        ("roles: [x]", "cache: true", False, ("x",)),
        ("roles: [x]", "roles: [y]", False, ("y",)),
        ("roles: [x]", "roles: []", False, ()),
        ("roles: [x]", "public: true", True, ()),
        ("roles: [x]", "public: false", False, ("x",)),
    ],
)
def test_who_may_come_in_is_what_the_route_says_and_else_what_the_service_says(
    settings: GatewaySettings, service: str, route: str, *, is_public: bool, roles: tuple[str, ...]
) -> None:
    rule = rules_of(f"services: {{a: {{url: http://h, {service}, routes: [{{path: /, {route}}}]}}}}", settings)["/"]

    assert (rule.is_public, rule.roles) == (is_public, roles)


@pytest.mark.parametrize(
    ("service", "route", "timeouts"),
    [
        ("cache: false", "cache: true", (9, 9)),
        ("cache: false", "timeout_s: 60", (60, 60)),  # one try may take all of it
        ("cache: false", "timeout_s: 3", (3, 3)),
        ("timeout_s: 20, try_timeout_s: 5", "timeout_s: 60", (60, 5)),
        ("timeout_s: 20, try_timeout_s: 5", "timeout_s: 3", (3, 3)),
        ("timeout_s: 20, try_timeout_s: 5", "cache: true", (20, 5)),
    ],
)
def test_a_route_that_has_its_own_time_has_it_for_its_tries_too(
    settings: GatewaySettings, service: str, route: str, timeouts: tuple[float, float]
) -> None:
    rule = rules_of(f"services: {{a: {{url: http://h, {service}, routes: [{{path: /, {route}}}]}}}}", settings)["/"]

    assert (rule.timeout_s, rule.try_timeout_s) == timeouts


@pytest.mark.parametrize(
    ("service", "route", "max_body_bytes"),
    [
        ("cache: false", "cache: true", 1 << 20),
        ("max_body: off", "cache: true", None),
        ("max_body: 'off'", "cache: true", None),  # as editors of YAML 1.2 have it
        ("max_body: off", "max_body: 5", 5),
        ("max_body: 5", "max_body: off", None),
    ],
)
def test_the_largest_body_is_what_the_route_says_and_else_what_the_service_says(
    settings: GatewaySettings, service: str, route: str, max_body_bytes: int | None
) -> None:
    rule = rules_of(f"services: {{a: {{url: http://h, {service}, routes: [{{path: /, {route}}}]}}}}", settings)["/"]

    assert rule.max_body_bytes == max_body_bytes


def test_a_version_keeps_what_its_service_gives_to_it(load: Load) -> None:
    services = load("""
services:
  a:
    url: http://a
    mirror: {service: a@2}
    split: [{service: b, percent: 1}, {service: a@2, percent: 2}]
    versions: {2: {url: http://c}, 3: {url: http://d}}
  b: {url: http://b}
""")

    assert [share.service for share in services["a"].split] == ["b", "a@2"]
    assert [share.service for share in services["a@2"].split] == ["b"]
    assert (services["a@2"].mirror, services["a@3"].mirror) == (None, services["a"].mirror)


def test_the_shipped_file_is_valid(settings: GatewaySettings) -> None:
    assert sorted(load_services(settings.gateway_services, settings, {}).services) == ["orders", "products", "users"]


def test_entries_may_share_what_is_equal_by_yaml_anchors(load: Load) -> None:
    text = "services:\n  a: &a {url: 'http://h', cache: true}\n  b:\n    <<: *a\n    url: http://i\n"

    services = load(text)

    assert [(urls_of(service), service.is_cached) for service in services.values()] == [
        (("http://h",), True),
        (("http://i",), True),
    ]


def test_several_instances_stand_in_a_list_in_the_file_or_by_comma_in_a_variable(load: Load) -> None:
    text = "services: {things: {instances: ['http://a:1', 'http://b:2']}}"

    assert urls_of(load(text)["things"]) == ("http://a:1", "http://b:2")
    assert urls_of(load(text, {"things": "http://c:3, http://d:4"})["things"]) == ("http://c:3", "http://d:4")
    assert urls_of(load(text, {"others": "http://e:5,http://f:6"})["others"]) == ("http://e:5", "http://f:6")


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{url: 'http://a', instances: ['http://b']}", "needs either url or instances"),
        ("{instances: ['http://a', 'http://a/']}", "http://a stands twice"),
        ("{instances: []}", "needs either url or instances"),
    ],
)
def test_addresses_that_make_no_sense_are_told(faults: Callable[[str], list[str]], entry: str, fault: str) -> None:
    (told,) = faults(f"services: {{things: {entry}}}")

    assert told.startswith("s.yaml:1:")
    assert told.endswith(fault)


def test_a_variable_gives_the_address_that_the_file_does_not_have(load: Load) -> None:
    text = "services: {things: {cache: true}}"

    assert urls_of(load(text, {"things": "http://c:3"})["things"]) == ("http://c:3",)


@pytest.mark.parametrize("name", ["students", "student", "pupils"])
def test_a_variable_overrides_the_address_by_name_or_alias(load: Load, name: str) -> None:
    services = load(FULL, {name: "http://10.0.0.1:80"})

    assert services.keys() == {"students"}
    assert urls_of(services["students"]) == ("http://10.0.0.1:80",)
    assert services["students"].roles == ("admin", "teacher")


def test_a_variable_adds_a_service_that_the_file_does_not_have(load: Load) -> None:
    services = load(FULL, {"grade-books": "http://10.0.0.1:80"})

    assert services.keys() == {"students", "grade-books"}
    assert (services["grade-books"].prefixes, services["grade-books"].is_public) == (("/grade-books",), False)


@pytest.mark.parametrize("names", [["students", "student", "pupils"], ["pupils", "student", "students"]])
def test_of_several_variables_for_a_service_its_name_wins_and_then_the_first_alias(
    load: Load, names: list[str]
) -> None:
    urls = {name: f"http://{name}" for name in names}

    assert urls_of(load(FULL, urls)["students"]) == ("http://students",)
    del urls["students"]
    assert urls_of(load(FULL, urls)["students"]) == ("http://student",)


def test_all_wrong_variables_are_told_at_once(faults: Callable[..., list[str]]) -> None:
    urls = {"students": "nonsense", "grade-books": "ftp://h", "7up": "http://h", "pupils": "http://a,http://a/"}

    told = faults(FULL, urls)

    assert [line.partition(":")[0] for line in told] == [
        "STUDENTS_SERVICE_URL",
        "GRADE_BOOKS_SERVICE_URL",
        "7UP_SERVICE_URL",
        "PUPILS_SERVICE_URL",
    ]


def test_wrong_variables_are_told_beside_the_faults_of_the_file(faults: Callable[..., list[str]]) -> None:
    told = faults("services: {a: {url: 'http://h', cach: true}}", {"b": "nonsense"})

    assert [line.split(" ")[0] for line in told] == ["s.yaml:1:33:", "B_SERVICE_URL:"]


def test_variables_are_read_from_the_environment_and_from_env_files(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A_SERVICE_URL=http://file\nB_SERVICE_URL=http://file\nE_SERVICE_URL=http://file\n")
    given = {"A_SERVICE_URL": "http://env", "GRADE_BOOKS_SERVICE_URL": " http://g ", "E_SERVICE_URL": ""}

    with parts.clean_environment(**given, _SERVICE_URL="http://x", SERVICE_URL="http://x") as patch:
        patch.chdir(tmp_path)
        urls = service_urls()

    assert urls == {"a": "http://env", "b": "http://file", "grade-books": "http://g"}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", "the file"),
        ("# nothing\n", "1:1", "the file"),
        ("- a\n", "1:1", "the file"),
        ("text\n", "1:1", "the file"),
        ("{}\n", "1:1", "services: is missing"),
        ("services:\n", "1:1", "services"),
        ("services: [a]\n", "1:1", "services"),
        ("services: {}\nextra: 1\n", "2:1", "extra: unknown key; allowed here: pages, plans, services"),
        ("services:\n  a:\n", "2:3", "services.a"),
        ("services:\n  a: []\n", "2:3", "services.a"),
        ("services:\n  a: {}\n", "2:3", "services.a: needs either url or instances"),
        (
            "services:\n  a: {url: 'http://h', cach: true}\n",
            "2:24",
            "unknown key; did you mean cache? allowed here: url, instances",
        ),
        ("services:\n  a: {url: h}\n", "2:7", "must be an address like"),
        ("services:\n  a: {url: 'http://h', public: maybe}\n", "2:24", "services.a.public"),
        ("services:\n  a: {url: 'http://h', roles: admin}\n", "2:24", "services.a.roles"),
        ("services:\n  a:\n    url: http://h\n    roles:\n    - ok\n    - {}\n", "6:7", "services.a.roles.1"),
        ("services:\n  a: {url: 'http://h', limits: {default: 5}}\n", "2:33", "must be a rate like 100/minute"),
        ("services:\n  a: {url: 'http://h', limits: 5/minute}\n", "2:24", "services.a.limits"),
        ("services:\n  a: {url: 'http://h', max_body: 10XB}\n", "2:24", "must be a size like 10MB"),
        (
            "services:\n  a: {url: 'http://h', timeout_s: 0}\n",
            "2:24",
            "must be a number above 0, at most 3600 (here: 0)",
        ),
        ("services:\n  a: {url: 'http://h', timeout_s: soon}\n", "2:24", "services.a.timeout_s"),
        ("services:\n  a: {url: 'http://h', path: x}\n", "2:24", "must begin with a slash"),
        ("services:\n  a: {url: 'http://h', path: '/x?y'}\n", "2:24", "must begin with a slash"),
        ("services:\n  a: {url: 'http://h', path: '/x y'}\n", "2:24", "must begin with a slash"),
        ("services:\n  a: {url: 'http://h', path: '/../x'}\n", "2:24", "must begin with a slash"),
        ("services:\n  Students: {url: 'http://h'}\n", "2:3", "services.Students"),
        ("services:\n  a/b: {url: 'http://h'}\n", "2:3", "services.a/b"),
        ("services:\n  1: {url: 'http://h'}\n", "2:3", "services.1"),
        ("services:\n  ? [a, b]\n  : {url: 'http://h'}\n", "2:5", "a key must be text"),
        ("services:\n  ? {a: b}\n  : {url: 'http://h'}\n", "2:5", "a key must be text"),
        ("services:\n  a: {url: 'http://h'}\n  a: {url: 'http://i'}\n", "3:3", "the key 'a' stands twice"),
        ("services:\n  a:\n    url: http://h\n    url: http://i\n", "4:5", "the key 'url' stands twice"),
        ("services: [\n", "2:1", "stream end"),
        ("services:\n\ta: 1\n", "2:1", "cannot start any token"),
        ("services: *unknown\n", "1:11", "undefined alias"),
        ("services: &a\n  x: *a\n", "1:11", "recursive"),
        ("services: !!python/object/apply:os.getpid []\n", "1:11", "could not determine a constructor"),
        ("services: {}\n---\nservices: {}\n", "2:1", "another document"),
    ],
    ids=ascii,
)
def test_each_fault_is_told_with_its_line_and_column(
    faults: Callable[..., list[str]], text: str, place: str, words: str
) -> None:
    (fault,) = faults(text)

    assert fault.startswith(f"s.yaml:{place}: ")
    assert words in fault


@pytest.mark.parametrize(("text", "words"), [(b"\xff\xfe\xfa", "not UTF-8"), (b"a: \x00", "special characters")])
def test_a_file_that_is_not_text_is_told(faults: Callable[..., list[str]], text: bytes, words: str) -> None:
    (fault,) = faults(text)

    assert fault.startswith("s.yaml: ")
    assert words in fault


def test_a_missing_file_is_told(tmp_path: Path, settings: GatewaySettings) -> None:
    with pytest.raises(ServicesError, match=r"missing\.yaml: can't be read \(No such file or directory\)"):
        load_services(tmp_path / "missing.yaml", settings, {})


def test_a_folder_instead_of_a_file_is_told(tmp_path: Path, settings: GatewaySettings) -> None:
    with pytest.raises(ServicesError, match="Is a directory"):
        load_services(tmp_path, settings, {})


def test_all_faults_of_a_file_are_told_at_once(faults: Callable[..., list[str]]) -> None:
    told = faults("services:\n  A: {url: 'http://h'}\n  b: {url: x, timeout_s: -1}\n  c: {}\nmore: 1\n")

    assert [line.split(" ")[0] for line in told] == [
        "s.yaml:2:3:",
        "s.yaml:3:7:",
        "s.yaml:3:15:",
        "s.yaml:4:3:",
        "s.yaml:5:1:",
    ]


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@h", "http://user:hunter2@h/path", "http://user:hunter2@h:99999", "user:hunter2@h"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(faults: Callable[..., list[str]], url: str) -> None:
    told = faults(f"services: {{a: {{url: '{url}'}}}}") + faults("services: {}", {"b": url})

    assert len(told) == 2
    assert not any("hunter2" in line for line in told)


@pytest.mark.parametrize(
    "text", ["100/minute", "5 per second", "1000/2hours", "1/day", "10 per 5 minute", "7/month", "100/MINUTE"]
)
def test_a_rate_is_kept_as_it_was_written(text: str) -> None:
    assert parse_rate(text) == text


@pytest.mark.parametrize(
    "value",
    [
        "",
        "100",
        100,
        None,
        True,
        "fast",
        "-1/minute",
        "0/minute",  # would refuse everybody
        "1.5/minute",
        "5/fortnight",
        "5/minute foo",
        "5/minute;10/hour",  # only the first of them would count
        "5/minute, 10/hour",
        "5/minute|10/hour",
    ],
)
def test_what_is_not_one_rate_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a rate"):
        parse_rate(value)


@pytest.mark.parametrize(
    "text", ["http://h", "https://h", "http://127.0.0.1:8000", "http://[::1]:8000", "http://a.b.svc.cluster.local:80"]
)
def test_an_address_loses_its_trailing_slash_only(text: str) -> None:
    assert parse_address(text) == parse_address(f"{text}/") == text


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "h",
        "h:80",
        "//h",
        "ftp://h",
        "unix:///run/x",
        "http://",
        "http:///x",
        "http://h/x",
        "http://h?x",
        "http://h?",
        "http://h#x",
        "http://h#",
        "http://h:99999",
        "http://h:port",
        "http://h h",
        " http://h",
        "http://h\n",
        "http://h\\x",
        "http://[::1",
        "http://ü",
        "http://user@h",
        "http://user:password@h",
    ],
)
def test_what_is_not_an_address_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^must"):
        parse_address(value)


def test_half_a_surrogate_pair_as_a_name_is_a_fault_like_any_other(faults: Callable[..., list[str]]) -> None:
    (fault,) = faults('services: {"\\ud800": {url: "http://a"}}')

    assert fault.startswith("s.yaml:1:")
