"""A file is whole or it is what it was: full disks, errors in the middle, folders that are not there."""

from pathlib import Path

import pytest

from unigen.config.files import remove_parts, require_folder, user_cache, whole_file, write_text


def test_it_appears_whole_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_what_was_there(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match=r"a.txt could not be written: File too large; what was there before is unharmed"):
        write_text(path, "new" * 2**16)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    write_text(path, "short")  # negative control: only the size was in the way
    assert path.read_text() == "short"


def test_a_folder_that_takes_no_file_is_said_by_the_name_of_the_file(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (Path("/proc/a.txt"), tmp_path / "file" / "a.txt"):
        with pytest.raises(OSError, match=f"{path} could not be written: ") as caught:
            write_text(path, "new")
        assert ".part" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_any_error_inside_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error, match="stop"), whole_file(path) as part:
        part.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    kept = [tmp_path / "a.part", tmp_path / ".hidden", tmp_path / "deep" / "last.ckpt"]
    for path in (*kept, tmp_path / "deep" / ".last.ckpt.x1.part"):
        path.write_text("x")
    remove_parts(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_caches_are_below_the_home_or_where_xdg_says_and_need_no_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache("emoji") == Path("/home/me/.cache/unigen/emoji")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/me")
    assert user_cache("emoji") == Path("/scratch/me/unigen/emoji")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for a user without a home
    assert user_cache("emoji").is_absolute()


def test_a_folder_below_a_file_is_refused_with_the_key_that_names_another(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"the numbers cannot be kept in folder '.*file/x': .*name another: data.cache="):
        require_folder(tmp_path / "file" / "x", "the numbers", "data.cache")
    require_folder(tmp_path / "new" / "folder", "the numbers", "data.cache")
    assert not any((tmp_path / "new" / "folder").iterdir())
