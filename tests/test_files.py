"""A file is whole or it is what it was: full disks, errors in the middle, folders that are not there."""

import pytest

from unigen.files import remove_parts, whole_file, write_text


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
