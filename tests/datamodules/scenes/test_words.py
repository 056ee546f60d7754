"""The word pieces of the family's text encoder: words of captions are whole, others are read in pieces."""

import json

import pytest

from datamodules.emoji.names import base_of
from datamodules.emoji.splits import split_of
from datamodules.scenes import words
from datamodules.scenes.clips import SceneClips
from unigen.encoders.t5 import load_tokenizer
from unigen.weights.repositories import shipped_folder

COLOURS = "red", "green", "turquoise"
PHRASE = "small duck bottom left, cat top, on red with blue stripes, green ground"


@pytest.fixture(scope="module")
def pieces():
    return words.learned([f"a {colour} duck, on {colour}" for colour in COLOURS] * 20, vocabulary=160)


def test_words_of_the_texts_are_whole_and_others_are_read_in_pieces(pieces):
    def read(text):
        return pieces.convert_ids_to_tokens(pieces(text)["input_ids"])

    assert read("a turquoise duck, on red") == ["▁a", "▁turquoise", "▁duck", ",", "▁on", "▁red", "</s>"]
    assert read("A Duck") == ["▁a", "▁duck", "</s>"], "case is no matter"
    other = read("quiz #7?")
    assert len(other) > 4 and "<unk>" not in other and "".join(other).replace("▁", " ") == " quiz #7?</s>"
    assert "<unk>" in read("größe"), "negative control"
    assert (pieces.pad_token_id, pieces.eos_token_id, pieces.unk_token_id) == (0, 1, 2)


def test_offsets_say_where_a_piece_lies(pieces):
    found = pieces("a red duck", return_offsets_mapping=True)
    assert ["a red duck"[a:b].strip() for a, b in found["offset_mapping"]] == ["a", "red", "duck", ""]


def test_the_shipped_pieces_read_a_caption_word_by_word():
    shipped = load_tokenizer("shipped:words", "encoder.text.tokenizer", "tokenizer")
    found = shipped.convert_ids_to_tokens(shipped(PHRASE)["input_ids"])
    assert "".join(found).replace("▁", " ").strip() == f"{PHRASE}</s>"
    assert len(found) == len(PHRASE.replace(",", " ,").split()) + 1 and len(shipped) == words.VOCABULARY


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    assert words.main([str(tmp_path)]) == 1 and "not there yet" in capsys.readouterr().err
    assert words.main([]) == 1


@pytest.mark.slow
def test_the_shipped_pieces_are_those_of_training_scenes(tmp_path):
    """Two minutes where no image of the emoji is cached: whether two objects can be told apart is seen in them."""
    assert words.main([str(tmp_path / "words")]) == 0
    made, shipped = (
        json.loads((f / "tokenizer.json").read_text()) for f in (tmp_path / "words", shipped_folder("words"))
    )
    assert made == shipped
    names = SceneClips().emoji.images.names
    assert {split_of(base_of(name)) for name in names} == {"train", "val", "test"}, (
        "there are others that it did not see"
    )
