"""Locks between processes: one at a time, let go of however a process ends; never a marker that outlives a
crash.
"""

import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest

from learngene.errors import LearngeneError
from learngene.files import alone, is_locked, locked

# holds the lock, leaves a forked worker behind, and waits to be killed
HOLDER = """
import os, sys, time
from learngene.files import locked
with locked(sys.argv[1]) as mine:
    assert mine
    if os.fork() == 0:
        print("worker", flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "worker\n"
    yield process
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def test_one_process_at_a_time_and_none_after_a_kill(tmp_path, holder):
    lock = tmp_path / "a.lock"
    with locked(lock, wait=False) as mine:
        assert not mine
    assert is_locked(lock)
    with pytest.raises(LearngeneError, match="busy there"), alone(lock, "busy there"):
        pytest.fail("two at once")
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with locked(lock) as mine:  # the worker that the holder forked is still there
        assert mine
    assert time.monotonic() - began < 20
    assert not is_locked(lock)


def test_alone_leaves_nothing_behind(tmp_path):
    with alone(tmp_path / "new" / "a.lock", "busy"):
        assert (tmp_path / "new" / "a.lock").exists()
    assert not (tmp_path / "new").exists()
    with alone(tmp_path / "kept" / "a.lock", "busy"):
        (tmp_path / "kept" / "file").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, number):
    """As some network file systems have none. A marker file instead would stay when a process is killed."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LearngeneError, match="has no locks"), locked(tmp_path / "a.lock", wait=False):
        pytest.fail("it was had")
