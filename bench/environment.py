"""What the peers need, below var/bench/: a Python environment by hash, and Node.js packages by their lock file.

Both are made anew when their lock has changed. A machine without npm, or without a package index, does without them,
and is told so.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements-bench.txt"
NODE_FILES = (ROOT / "bench/peers/package.json", ROOT / "bench/peers/package-lock.json")
INSTALL_TIMEOUT_S = 240
PROGRAMS = {"nginx": ["-v"], "haproxy": ["-v"], "caddy": ["version"], "wrk": ["-v"], "node": ["--version"]}


@dataclass(frozen=True, slots=True)
class Environment:
    """What is there. `missing` says by need ("node", "python", or a program's name) why something is not."""

    folder: Path
    missing: dict[str, str]

    @property
    def python(self) -> Path:
        """With FastAPI, its companions, and matplotlib."""
        return self.folder / "python/bin/python"

    @property
    def node_modules(self) -> Path:
        return self.folder / "node/node_modules"

    def has(self, need: str) -> bool:
        return need not in self.missing


def prepare(folder: Path, *, may_install: bool) -> Environment:
    """Find what is there already; with `may_install`, fetch what is not."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = {
        name: f"{name} is not installed (Debian: apt-get install {name})" for name in PROGRAMS if not shutil.which(name)
    }
    environment = Environment(folder, missing)
    if why := _lacks_python(environment, may_install):
        missing["python"] = why
    if "node" not in missing and (why := _lacks_node(environment, may_install)):
        missing["node"] = why
    return environment


def versions(environment: Environment) -> dict[str, str]:
    """Of the programs and packages that are there, as they say it themselves."""
    found: dict[str, str] = {"Python": sys.version.split()[0]}
    for name, arguments in PROGRAMS.items():
        if environment.has(name) or shutil.which(name):
            ended = subprocess.run([name, *arguments], capture_output=True, text=True, timeout=20, check=False)
            found[name] = _number_in(ended.stdout + ended.stderr)
    for name in ("express", "http-proxy-middleware", "fast-gateway"):
        if environment.has("node"):
            found[name] = _locked_node(environment, name)
    locked = dict(line.split(" ")[0].split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line[:60])
    for name in ("flask", "gunicorn", "gevent", "fastapi", "httpx", "aiohttp", "uvicorn", "pyjwt", "redis"):
        found[name] = next((version for each, version in locked.items() if each.split("[")[0] == name), "?")
    return found


def _lacks_python(environment: Environment, may_install: bool) -> str:
    stamp = environment.folder / "python.stamp"
    if _is_current(stamp, [REQUIREMENTS]) and environment.python.exists():
        return ""
    if not may_install:
        return "the peers' Python environment is not there yet; the full `make bench` installs it"
    if not environment.python.exists():
        shutil.rmtree(environment.folder / "python", ignore_errors=True)
        if why := _fails([sys.executable, "-m", "venv", str(environment.folder / "python")], environment.folder):
            return f"no environment could be made: {why}"
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if why := _fails([*pip, "--require-hashes", "-r", str(REQUIREMENTS)], environment.folder):
        return f"requirements-bench.txt could not be installed: {why}"
    stamp.write_text(_digest([REQUIREMENTS]))
    return ""


def _lacks_node(environment: Environment, may_install: bool) -> str:
    folder = environment.folder / "node"
    stamp = environment.folder / "node.stamp"
    if _is_current(stamp, NODE_FILES) and environment.node_modules.exists():
        return ""
    if not may_install:
        return "the peers' Node.js packages are not there yet; the full `make bench` installs them"
    if not shutil.which("npm"):
        return "npm is not installed"
    folder.mkdir(exist_ok=True)
    for file in NODE_FILES:
        shutil.copy(file, folder)
    if why := _fails(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder):
        return f"npm ci failed: {why}"
    stamp.write_text(_digest(NODE_FILES))
    return ""


def _fails(command: Sequence[str], folder: Path) -> str:
    """The end of what a failed command says; nothing for one that worked."""
    try:
        ended = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (ended.stderr or ended.stdout or "no reason given").strip()[-300:] if ended.returncode else ""


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _is_current(stamp: Path, files: Sequence[Path]) -> bool:
    return stamp.exists() and stamp.read_text() == _digest(files)


def _number_in(text: str) -> str:
    """The first word that looks like a version."""
    words = (word.strip("v,").removeprefix("nginx/").removeprefix("debian/") for word in text.split())
    return next((word for word in words if word[:1].isdigit()), text.strip()[:30])


def _locked_node(environment: Environment, name: str) -> str:
    return str(json.loads((environment.node_modules / name / "package.json").read_text())["version"])
