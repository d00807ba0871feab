"""Who waits for whom, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from contextlib import contextmanager

import pytest

from mixar.storage import locks
from mixar.storage.locks import holder, lease


@contextmanager
def waiting(folder, made, said, seconds_between=locks.SECONDS_BETWEEN_NOTICES):
    """A second lease in a thread that waits for the first one; yields a function that returns what it found."""
    found, has_spoken = [], threading.Event()

    def announce(text):
        said.append(text)
        has_spoken.set()

    def wait():
        with lease(folder, made, announce, seconds_between) as is_made:
            found.append((is_made, holder(folder)))

    thread = threading.Thread(target=wait, daemon=True)

    def result():
        thread.join(30)
        return found[0]

    thread.start()
    assert has_spoken.wait(30) and not found
    yield result


def test_who_holds_a_folder_is_said_at_once(tmp_path):
    said = []
    with lease(tmp_path / "run", tmp_path / "made"), waiting(tmp_path / "run", tmp_path / "made", said) as result:
        in_words = holder(tmp_path / "run")
    result()

    assert in_words.startswith(f"process {os.getpid()} on {socket.gethostname()}, which has held it since 20")
    assert said[0].startswith(f"{tmp_path}/run: waiting for {in_words} (0 s so far).") and "`kill`" in said[0]
    assert holder(tmp_path / "run") is None and holder(tmp_path / "nothing") is None


def test_who_holds_a_folder_is_said_now_and_then(tmp_path):
    said, often = [], threading.Event()

    class Said(list):
        def append(self, text):
            said.append(text)
            if len(said) == 3:
                often.set()

    with lease(tmp_path, tmp_path / "made"), waiting(tmp_path, tmp_path / "made", Said(), 0.0) as result:
        assert often.wait(30)
    result()


def test_who_waited_learns_that_the_file_was_made_meanwhile(tmp_path):
    for makes in (True, False):
        with lease(tmp_path / "run", tmp_path / "made"), waiting(tmp_path / "run", tmp_path / "made", []) as result:
            if makes:
                (tmp_path / "made").write_text("")
        assert result()[0] == makes


def test_a_folder_that_its_holder_removed_is_held_again(tmp_path):
    with lease(tmp_path / "run", tmp_path / "made"), waiting(tmp_path / "run", tmp_path / "made", []) as result:
        shutil.rmtree(tmp_path / "run")

    is_made, held_by = result()

    assert not is_made and held_by, "the lock is on the file that others find"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_the_work_is_done_and_the_danger_said(tmp_path, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []

    with lease(tmp_path, tmp_path / "made", said.append):
        pass

    assert len(said) == 1 and said[0].startswith(f"{tmp_path}: this file system has no locks")
    assert "Lustre: `flock`" in said[0] and "hardware.results" in said[0]


def test_another_failure_of_a_lock_names_its_file(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path}/lease'"), lease(tmp_path, tmp_path / "made"):
        pass


def test_a_lease_without_room_is_named(tmp_path):
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # the same kind of error as a full disk
    try:
        with pytest.raises(OSError, match="lease: File too large; free some space"), lease(tmp_path, tmp_path / "made"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_notices_reach_a_log_file_at_once(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        locks.say("waiting")

        assert (tmp_path / "log").read_text() == "waiting\n"


def test_a_lease_that_cannot_be_opened_stops_nobody_who_only_asks(tmp_path):
    (tmp_path / locks.LEASE).mkdir()  # another user's lease in shared results fails alike

    assert holder(tmp_path) is None
