"""Paths of records stay inside the data's root."""

import pytest
from made_pictures import coloured

from datamodules.reading import BadPicture, inside, read_picture


def test_paths_stay_inside_the_root(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "database").mkdir()  # begins as the root does
    saved_at = root / "sub" / "a.png"
    coloured().save(saved_at)
    (root / "near.png").symlink_to(saved_at)
    (root / "far.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    assert inside(root, "sub/a.png") == inside(root, "sub/../sub/a.png") == inside(root, "near.png")
    assert inside(root, saved_at) == saved_at.resolve()
    assert inside(root, "new.png") == (root / "new.png").resolve()
    for bad in (
        "../secret.png",
        "sub/../../secret.png",
        "/etc/passwd",
        "far.png",
        "out/x.png",
        "../database/x",
        "..\0",
    ):
        with pytest.raises(BadPicture, match="it must be a path in") as caught:
            inside(root, bad)
        assert repr(bad) in str(caught.value)
    (tmp_path / "link").symlink_to(root)
    assert inside(tmp_path / "link", "sub/a.png") == saved_at.resolve()  # the root itself may be one


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadPicture):
        read_picture(inside(tmp_path, "loop"))
