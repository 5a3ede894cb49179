"""The persisted counter: durable before use, never lower, one process a folder."""

import stat
from pathlib import Path

import pytest

from moiety.engine.counter import COUNTER_FILE, LOCK_FILE, Counter
from moiety.errors import ConfigError, ReuseRefused


def test_counts_up_and_lasts(tmp_path: Path) -> None:
    first = Counter(tmp_path)
    assert [first.advance() for _ in range(3)] == [1, 2, 3]
    assert (tmp_path / COUNTER_FILE).read_text() == "3\n"
    first.close()
    second = Counter(tmp_path)
    assert second.advance() == 4
    second.close()
    for name in (COUNTER_FILE, LOCK_FILE):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_not_higher_is_refused(tmp_path: Path) -> None:
    counter = Counter(tmp_path)
    assert counter.claim(10) == 10
    for value in (10, 3, 0):
        with pytest.raises(ReuseRefused):
            counter.claim(value)
    assert counter.claim(11) == 11
    counter.close()


def test_old_copy_under_a_running_party(tmp_path: Path) -> None:
    counter = Counter(tmp_path)
    counter.advance()
    snapshot = (tmp_path / COUNTER_FILE).read_bytes()
    counter.advance()
    (tmp_path / COUNTER_FILE).write_bytes(snapshot)
    with pytest.raises(ReuseRefused, match="an old copy"):
        counter.advance()
    (tmp_path / COUNTER_FILE).unlink()
    with pytest.raises(ReuseRefused):
        counter.advance()
    counter.close()


def test_one_process_a_folder(tmp_path: Path) -> None:
    counter = Counter(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        Counter(tmp_path)
    counter.close()


def test_damaged_or_open(tmp_path: Path) -> None:
    for name, content, mode, said in [("a", "twelve", 0o600, "damaged"), ("b", "12", 0o644, "chmod 600")]:
        (tmp_path / name).mkdir()
        place = tmp_path / name / COUNTER_FILE
        place.write_text(content)
        place.chmod(mode)
        with pytest.raises(ConfigError, match=said):
            Counter(tmp_path / name)
