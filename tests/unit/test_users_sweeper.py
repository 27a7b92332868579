"""What user_service does now and then."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import load
from user_service import create_app
from user_service.settings import UserSettings
from user_service.sweeper import sweep

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
ALWAYS = {"sessions_deleted", "api_keys_deleted"}


def test_a_round_that_fails_is_a_warning_and_the_others_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def fail() -> int:
        raise OSError("the disk is full")

    def work() -> int:
        done.append("work")
        return 3

    sweep({"first": fail, "second": work, "third": lambda: 0})

    told = capsys.readouterr().out
    assert done == ["work"]
    assert "sweep_failed" in told
    assert "OSError" in told
    assert "second" in told
    assert "third" not in told


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"jwt_secret_key": SECRET, "key_rotation_days": 30}, set[str]()),
        ({"jwt_secret_key": None, "key_rotation_days": 0}, {"signing_keys_deleted"}),
        ({"jwt_secret_key": None, "key_rotation_days": 30}, {"signing_keys_deleted", "signing_keys_made"}),
    ],
)
def test_keys_are_swept_where_there_are_some_and_made_where_that_is_wanted(
    tmp_path: Path, given: dict[str, object], more: set[str]
) -> None:
    own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}

    app = create_app(load(UserSettings, "user_service", **own | given))

    assert set(app.extensions["rounds"]) == ALWAYS | more
    app.extensions["database"].dispose()
