"""Paths of records stay inside the data's root."""

import pytest
from made_images import coloured

from datamodules.reading.images import BadImage, decode_image, inside


def test_paths_stay_inside_the_root(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "database").mkdir()  # begins as the root does
    saved_at = root / "sub" / "a.png"
    coloured().save(saved_at)
    assert inside(root, "sub/a.png") == inside(root, "sub/../sub/a.png") == saved_at == inside(root, saved_at)
    assert inside(root, "new.png") == root / "new.png"
    for bad in ("../secret.png", "sub/../../secret.png", "/etc/passwd", "../database/x", "..\0", "new/../../x", ".."):
        with pytest.raises(BadImage, match="it must be a path in") as caught:
            inside(root, bad)
        assert repr(bad) in str(caught.value)


def test_links_in_the_root_are_followed(tmp_path):
    """The cache of the Hugging Face Hub holds links to files elsewhere; a table may name them."""
    root, blob = tmp_path / "snapshots" / "1", tmp_path / "blobs" / "5ba7"
    for folder in (root, blob.parent):
        folder.mkdir(parents=True)
    coloured().save(blob, "PNG")
    (root / "a.png").symlink_to("../../blobs/5ba7")
    (root / "folder").symlink_to(blob.parent)
    (tmp_path / "link").symlink_to(root)
    for base in (root, tmp_path / "link"):
        assert (
            decode_image(inside(base, "a.png")).shape == decode_image(inside(base, "folder/5ba7")).shape == (3, 9, 12)
        )
    with pytest.raises(BadImage, match="leads out"):
        inside(root, "../../blobs/5ba7")


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadImage):
        decode_image(inside(tmp_path, "loop"))
