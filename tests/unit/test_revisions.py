"""The history of configurations: a stack whose numbers only grow, kept where the workers of a gateway share it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.revisions import (
    KEPT,
    STATE,
    History,
    InDirectory,
    InMemory,
    Look,
    NothingBefore,
    NotNow,
    Revision,
    Shelf,
    Signature,
    sha256,
)

LOOK = Look(Signature(1, 2, 3, 4), 5.0, "6", ("a fault",))


def history(*texts: str) -> History:
    """With `texts` published one after the other."""
    made = History((Revision(1, texts[0], 0.0),), LOOK)
    for text in texts[1:]:
        made = made.published(text, LOOK)
    return made


def test_publishing_puts_a_text_on_top() -> None:
    found = history("a", "b").newest

    assert found == Revision(2, "b", since=LOOK.at)


def test_rollback_is_a_new_revision_with_the_text_of_the_one_before() -> None:
    found = history("a", "b", "c").rolled_back(9.0).newest

    assert found == Revision(4, "b", since=9.0, restores=2)


def test_second_rollback_goes_back_further() -> None:
    found = history("a", "b", "c").rolled_back(9.0).rolled_back(10.0).newest

    assert found == Revision(5, "a", since=10.0, restores=1)


def test_rollback_to_a_rollback_names_the_number_that_the_text_had_first() -> None:
    found = history("a", "b").rolled_back(9.0).published("c", LOOK).rolled_back(10.0).newest

    assert found == Revision(5, "a", since=10.0, restores=1)


def test_there_is_nothing_before_the_first_revision() -> None:
    with pytest.raises(NothingBefore):
        history("a").rolled_back(9.0)


def test_so_many_revisions_are_kept_and_no_more() -> None:
    made = history(*(str(number) for number in range(1, KEPT + 6)))

    assert [revision.text for revision in made.revisions] == [str(number) for number in range(6, KEPT + 6)]


def test_rollback_forgets_nothing_of_what_was_seen_of_the_file() -> None:
    assert history("a", "b").rolled_back(9.0).look == LOOK


@given(st.lists(st.one_of(st.just(None), st.text(max_size=3)), max_size=40))
def test_history_is_a_stack_of_bounded_height(steps: list[str | None]) -> None:
    made, stack = history("first"), ["first"]

    for step in steps:  # None: a rollback
        number = made.newest.number
        if step is None and len(stack) == 1:
            continue
        made = made.rolled_back(1.0) if step is None else made.published(step, LOOK)
        stack = stack[:-1] if step is None else [*stack, step][-KEPT:]

        assert [revision.text for revision in made.revisions] == stack
        assert made.newest.number == number + 1


@pytest.fixture(params=["memory", "directory"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return InMemory() if request.param == "memory" else InDirectory(tmp_path / "shared")


def test_shelf_is_empty_at_first_and_keeps_what_was_written(shelf: Shelf) -> None:
    before = shelf.read()
    shelf.write(history("ä", "b"))

    assert before is None
    assert shelf.read() == history("ä", "b")


def test_reading_again_gives_the_same_object_while_nobody_writes(shelf: Shelf) -> None:
    shelf.write(history("a"))

    assert shelf.read() is shelf.read()


def test_lock_is_refused_while_it_is_held_and_had_afterwards(shelf: Shelf) -> None:
    with shelf.locked(), pytest.raises(NotNow), shelf.locked():
        pytest.fail("it was had twice")

    with shelf.locked():
        pass


def test_lock_is_given_back_by_whoever_fails(shelf: Shelf) -> None:
    with pytest.raises(ZeroDivisionError), shelf.locked():
        raise ZeroDivisionError

    with shelf.locked():
        pass


def test_lock_of_a_directory_holds_for_everybody_who_knows_it(tmp_path: Path) -> None:
    with InDirectory(tmp_path).locked(), pytest.raises(NotNow), InDirectory(tmp_path).locked():
        pytest.fail("it was had twice")


def test_what_one_writes_the_other_reads(tmp_path: Path) -> None:
    mine, other = InDirectory(tmp_path), InDirectory(tmp_path)
    mine.write(history("a"))
    other.read()

    mine.write(history("a", "b").rolled_back(9.0))

    assert other.read() == history("a", "b").rolled_back(9.0)


def test_directory_that_has_gone_reads_as_empty_and_is_made_again(tmp_path: Path) -> None:
    shelf = InDirectory(tmp_path / "shared")
    shelf.write(history("a"))
    shutil.rmtree(tmp_path / "shared")

    found = shelf.read()
    shelf.write(history("a", "b"))

    assert found is None
    assert InDirectory(tmp_path / "shared").read() == history("a", "b")


def test_texts_may_hold_passwords_so_nobody_else_may_look_into_the_directory(tmp_path: Path) -> None:
    InDirectory(tmp_path / "shared").write(history("a"))

    assert (tmp_path / "shared").stat().st_mode & 0o077 == 0


def test_nobody_ever_reads_half_a_state(tmp_path: Path) -> None:
    writer, done = InDirectory(tmp_path), threading.Event()
    written = [history("x" * 200_000), history("y" * 300_000)]
    writer.write(written[0])

    def write() -> None:
        for count in range(100):
            writer.write(written[count % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    read: list[History | None] = []
    while not done.is_set():
        read.append(InDirectory(tmp_path).read())
    thread.join()

    assert len(read) > 1
    assert all(found in written for found in read)
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE]


def test_asking_for_a_look_shows_in_the_time_of_asking(tmp_path: Path) -> None:
    shelf = InDirectory(tmp_path)
    before = shelf.asked_ns

    shelf.ask()

    assert before == 0
    assert InDirectory(tmp_path).asked_ns > 0


def written(file: Path) -> None:
    file.write_text("longer")


def deleted(file: Path) -> None:
    file.unlink()


def replaced(file: Path) -> None:
    before = file.stat()
    file.rename(file.with_name("old"))
    file.write_text("text")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tools do that keep times


@pytest.mark.parametrize("change", [written, deleted, replaced])
def test_signature_changes_with_the_file(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    before = Signature.of(file, 0)

    change(file)

    assert Signature.of(file, 0) != before


def test_signature_is_that_of_the_file_which_links_lead_to(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "file").symlink_to("data/file")
    before = Signature.of(tmp_path / "file", 0)

    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(tmp_path / "data")  # as Kubernetes renews what a ConfigMap mounts

    assert Signature.of(tmp_path / "file", 0) != before


def test_file_that_is_not_there_has_a_signature_too(tmp_path: Path) -> None:
    assert Signature.of(tmp_path / "nothing", 7) == Signature(0, 0, 0, 7)


def test_digest_is_the_one_that_sha256sum_gives() -> None:
    assert sha256("ä\n") == "ac6f010e65c9ea739dbdaa21427edd5ef60c6d461ef4d619c003e3ab62453a56"
