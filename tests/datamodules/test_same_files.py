"""Files of one content are found, however far into them they differ from others."""

from datamodules.reading.accounts import START, same_files


def test_files_of_the_same_bytes_are_grouped(tmp_path):
    long = b"x" * (START + 9)
    data = {"a": b"1", "b": b"2", "c": long + b"1", "d": long + b"2", "e": b"1", "f": long + b"2", "g": b"1", "h": b""}
    files = [tmp_path / name for name in data]
    for file in files:
        file.write_bytes(data[file.name])
    groups = same_files([*files, tmp_path / "gone"])
    assert [[file.name for file in group] for group in groups] == [["a", "e", "g"], ["d", "f"]]
    assert same_files(files[:4]) == [] == same_files([])
