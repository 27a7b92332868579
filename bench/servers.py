"""The programs that take part: started on free ports, found out to be ready, and ended by their own process ids."""

from __future__ import annotations

import getpass
import http.client
import os
import shutil
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.environment import Environment
from bench.service import JWKS_PATH, SERVED_PATH, SMALL
from deploy.local.child import Child
from tests.support.ports import free_port
from tests.support.processes import clean_environment

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).parent / "peers"
READY_S = 60.0
GRACE_S = 3.0
UNLIMITED = "1000000000"


@dataclass(frozen=True, slots=True)
class Server:
    """A program that runs. `pid` is the top of its process tree."""

    name: str
    port: int
    pid: int
    is_tls: bool = False

    def url(self, path: str) -> str:
        return f"{'https' if self.is_tls else 'http'}://127.0.0.1:{self.port}{path}"

    def status(self, path: str, headers: Sequence[str] = ()) -> int:
        """Ask once. Raises OSError."""
        return ask(self.port, path, headers, is_tls=self.is_tls)[0]


class Starter:
    """Starts programs and ends all of them with its own end. `folder` takes their logs and configurations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        env: Mapping[str, str] | None = None,
        ready: str = "/items/1",
        cwd: Path = ROOT,
        is_tls: bool = False,
    ) -> Server:
        """Run `command`; it is ready when `ready` is answered, whatever the status but 5xx. Raises `NotStarted`."""
        self._count += 1
        log = self.folder / f"{self._count}-{name.replace(' ', '-').replace('/', '-')}.log"
        child = Child(name, command, log_path=log, cwd=cwd, env=clean_environment(env or {}))
        self._stack.callback(child.stop, grace_s=GRACE_S)
        child.start(lambda: _answers(port, ready, is_tls), timeout_s=READY_S)
        return Server(name, port, child.pid, is_tls)


@dataclass(frozen=True, slots=True)
class Service:
    """What stands behind: one that answers, and one that plays user_service."""

    port: int
    users_port: int
    program: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def users_url(self) -> str:
        return f"http://127.0.0.1:{self.users_port}"

    def served(self) -> int:
        """How many requests have come to the service; each look counts as one itself where nginx counts."""
        text = ask(self.port, SERVED_PATH)[1].decode()
        return int(text.split()[9]) if "accepts" in text else int(text)

    @property
    def looks_count(self) -> int:
        return 1 if self.program == "nginx" else 0


def start_service(starter: Starter) -> Service:
    """nginx where it is, else our own; user_service is always our own. Files are there already."""
    port, users_port = free_port(), free_port()
    ours = [sys.executable, "-m", "bench.service"]
    starter.start("users", [*ours, str(users_port), str(starter.folder)], port=users_port, ready=JWKS_PATH)
    if shutil.which("nginx"):
        file = configured("service.conf", starter.folder, port=port)
        starter.start("service", ["nginx", "-c", str(file)], port=port)
        return Service(port, users_port, "nginx")
    starter.start("service", [*ours, str(port), str(starter.folder)], port=port)
    return Service(port, users_port, "bench.service")


def configured(template: str, folder: Path, *, port: int, service_port: int = 0) -> Path:
    """The file `template` with its places filled in."""
    places = {
        "@PORT@": str(port),
        "@SERVICE_PORT@": str(service_port),
        "@FOLDER@": str(folder),
        "@USER@": getpass.getuser(),
        "@SMALL@": SMALL.decode(),
    }
    text = (PEERS / template).read_text()
    for place, value in places.items():
        text = text.replace(place, value)
    file = folder / f"{port}-{template}"
    file.write_text(text)
    return file


@dataclass(frozen=True, slots=True)
class Peer:
    """Another gateway: the program that it needs, and its file below peers/."""

    name: str
    needs: str
    file: str


PEERS_KNOWN = (
    Peer("nginx", "nginx", "nginx.conf"),
    Peer("HAProxy", "haproxy", "haproxy.cfg"),
    Peer("Caddy", "caddy", "Caddyfile"),
    Peer("fast-gateway", "node", "fast_gateway.js"),
    Peer("Express + http-proxy-middleware", "node", "express.js"),
    Peer("FastAPI + aiohttp", "python", "fastapi_aiohttp.py"),
    Peer("FastAPI + httpx", "python", "fastapi_httpx.py"),
    Peer("FastAPI + httpx + PyJWT + redis", "python", "fastapi_policies.py"),
    Peer("Flask as usual", "gunicorn", "flask_usual.py"),
)


def start_peer(
    peer: Peer, starter: Starter, service: Service, environment: Environment, *, redis_url: str, secret: str
) -> Server:
    """One process of it, as its users start it. Raises `NotStarted`."""
    port = free_port()
    env = {
        "PORT": str(port),
        "SERVICE_URL": service.url,
        "REDIS_URL": redis_url,
        "JWT_SECRET_KEY": secret,
        "RATE_LIMIT_REQUESTS": UNLIMITED,
        "NODE_PATH": str(environment.node_modules),
        "NODE_ENV": "production",
        "XDG_DATA_HOME": str(starter.folder),
        "XDG_CONFIG_HOME": str(starter.folder),
    }
    return starter.start(peer.name, _command(peer, port, starter.folder, service, environment), port=port, env=env)


def _command(peer: Peer, port: int, folder: Path, service: Service, environment: Environment) -> list[str]:
    module = f"bench.peers.{peer.file.removesuffix('.py')}:app"
    if peer.needs == "node":
        return ["node", str(PEERS / peer.file)]
    if peer.needs == "python":
        uvicorn = [str(environment.python), "-m", "uvicorn", "--no-access-log", "--log-level", "warning"]
        return [*uvicorn, "--loop", "uvloop", "--http", "httptools", "--port", str(port), module]
    if peer.needs == "gunicorn":
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", os.devnull, "--no-control-socket", "-k", "gevent"]
        return [*gunicorn, "-w", "1", "-b", f"127.0.0.1:{port}", module]
    file = str(configured(peer.file, folder, port=port, service_port=service.port))
    return {
        "nginx": ["nginx", "-c", file],
        "haproxy": ["haproxy", "-db", "-f", file],
        "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", file],
    }[peer.needs]


def ask(port: int, path: str, headers: Sequence[str] = (), *, is_tls: bool = False) -> tuple[int, bytes]:
    """One GET over a connection of its own. Raises OSError."""
    if is_tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # made for this run, seen by nobody else
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=dict(line.split(": ", 1) for line in headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def _answers(port: int, path: str, is_tls: bool) -> bool:
    try:
        return ask(port, path, is_tls=is_tls)[0] < 500
    except OSError:
        return False
