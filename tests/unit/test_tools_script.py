"""`deploy/tools.sh`, which gets for the tests what only Debian has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_promtool_of_the_machine_is_linked_to(tmp_path: Path) -> None:
    script, installed = tmp_path / "deploy" / "tools.sh", tmp_path / "usr" / "promtool"
    for folder in (script.parent, installed.parent, tmp_path / ".venv" / "bin"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "tools.sh", script)
    installed.write_text("#!/bin/sh\necho checked\n")
    installed.chmod(0o755)

    path = f"{installed.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([script], env={"PATH": path}, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / ".venv" / "bin" / "promtool").resolve() == installed
