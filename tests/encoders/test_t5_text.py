"""Prompts to features, and the tokens that hold a subject's words."""

import warnings

import pytest
import torch
from tiny import tiny

from unigen.encoders.t5 import T5Text, load_tokenizer
from unigen.pipeline.build import build
from unigen.weights.repositories import Wanted, located

CONFIG = tiny()["encoder"]["text"]["config"]


def text(window: int = 32, pool: int = 1, trained: bool = False, **config) -> T5Text:
    return T5Text(CONFIG | config, "byt5", vocabulary=384, window=window, pool=pool, trained=trained)


def marked(prompt: str, *words: str, window: int = 32) -> str:
    """The marked bytes of a prompt."""
    found = text(window).keywords([prompt], [words])[0].tolist()
    raw = prompt.encode().ljust(window, b"\0")
    return bytes(b for b, yes in zip(raw, found, strict=False) if yes).decode()


@pytest.mark.parametrize(
    ("prompt", "words", "found"),
    [
        ("a cat on a mat", ("cat",), "cat"),
        ("a cat on a mat", ("cat", "mat"), "catmat"),
        ("Cat and CAT", ("cat",), "CatCAT"),
        ("a red panda", ("red panda",), "red panda"),
        ("concatenate", ("cat",), ""),
        ("cats", ("cat",), "cats"),
        ("a tea\u0301  pot", ("te\u00e1 pot",), "tea\u0301  pot"),
        ("a te\u00e1-pot", ("tea\u0301 pots",), "te\u00e1-pot"),
        ("a cafe\u0301", ("cafe",), ""),
        ("a cat.", ("cat",), "cat"),
        ("a (c+t)", ("c+t",), "c+t"),
        ("a dog", ("cat",), ""),
        ("a dog", (), ""),
        ("a dog", ("",), ""),
        ("", ("cat",), ""),
        ("café à Zürich", ("zürich",), "Zürich"),
        ("日本 の 猫 here", ("猫",), "猫"),
        ("🐱 cat", ("cat",), "cat"),
    ],
)
def test_keywords_mark_the_subjects_bytes_and_no_others(prompt, words, found):
    assert marked(prompt, *words) == found


def test_multibyte_letters_shift_the_tokens():
    """Negative control for counting characters: two bytes of é stand before the subject."""
    found = text().keywords(["éé cat"], [("cat",)])[0].nonzero().flatten().tolist()
    assert found == [5, 6, 7]


def test_pooled_tokens_are_marked_if_any_byte_is():
    found = text(window=16, pool=4).keywords(["a lion cub"], [("lion",)])
    assert found.tolist() == [[True, True, False, False]]


def test_each_prompt_has_its_own_subjects():
    found = text().keywords(["a cat", "a dog"], [("cat",), ("cat",)])
    assert found.any(1).tolist() == [True, False]


def test_a_keyword_beyond_the_window_marks_neither_the_end_token_nor_anything_else():
    """Window 6 keeps 5 bytes and the end token: of "cat" at bytes 4 to 6 only the first is there."""
    found = text(window=6).keywords(["the cat"], [("cat",)])[0]
    assert found.nonzero().flatten().tolist() == [4]
    assert not text(window=4).keywords(["the cat"], [("cat",)]).any()


def test_features_are_padded_to_the_window():
    x = text(window=16).encode(["a cat", "a much longer"])
    assert x.shape == (2, 16, 32)
    assert not torch.allclose(x[0], x[1], atol=1e-3), "negative control"


def test_pooled_bytes_keep_their_order():
    """The sum over a group would forget it if a byte were embedded alike at every place: the negative control."""
    pooled = text(window=16, pool=4, trained=True)  # one that keeps nothing
    cat, act = pooled.encode(["cat", "act"])
    assert cat.shape == (4, 32) and not torch.allclose(cat, act, atol=1e-3)
    table = pooled.model.get_input_embeddings().weight.data.unflatten(0, (4, 384))
    table.copy_(table[:1].clone().expand_as(table))
    cat, act = pooled.encode(["cat", "act"])
    torch.testing.assert_close(cat, act)


def test_padding_is_encoded_as_in_cogvideox():
    """The stock encoder without an attention mask, on ids = byte + 3, end token 1, padding 0."""
    model = text(window=8)
    ids = torch.tensor([[100, 1, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        stock = model.model(input_ids=ids).last_hidden_state
        masked = model.model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    assert torch.equal(model.encode(["a"]), stock)
    assert not torch.allclose(model.encode(["a"]), masked, atol=1e-3), "negative control"


def test_a_long_prompt_is_cut_with_a_warning_that_says_where():
    model = text(window=8)
    with pytest.warns(
        UserWarning, match=r"the prompt has 12 tokens and encoder.text.window is 8, so it is cut after 'a long '"
    ):
        cut = model.encode(["a long tail"])
    assert torch.equal(cut, model.encode(["a long "]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["another long tail"])  # a run cuts thousands of them: one is said
        fresh = text(window=8)
        fresh.encode(["a long "])
        with pytest.raises(UserWarning):
            fresh.encode(["a long tail"])


def test_a_frozen_encoder_gives_no_gradient_and_has_no_dropout():
    frozen, learning = text(dropout_rate=0.5), text(trained=True)
    assert not frozen.encode(["a cat"]).requires_grad and learning.encode(["a cat"]).requires_grad
    assert torch.equal(frozen.encode(["a cat"]), frozen.encode(["a cat"]))
    with torch.no_grad():
        assert not learning.encode(["a cat"]).requires_grad
    active = text(trained=True, dropout_rate=0.5)
    assert not torch.equal(active.encode(["a cat"]), active.encode(["a cat"])), "negative control"


def test_the_window_must_divide_into_pools():
    with pytest.raises(
        ValueError, match=r"encoder.text.window is 10; it must be a multiple of encoder.text.pool \(4\)"
    ):
        text(window=10, pool=4)


def test_missing_tokenizer_files_are_one_sentence(tmp_path):
    config = tiny()["encoder"]["text"] | {"tokenizer": str(tmp_path / "nowhere")}
    model = build(config)
    with pytest.raises(ValueError, match=r"config key encoder.text.tokenizer"):
        model.encode(["a cat"])


def test_a_fast_tokenizers_offsets_mark_the_same_words(tmp_path):
    """A SentencePiece-like tokenizer built in memory, saved and loaded from its folder as a published one would be."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁cat", "at"]
    T5Tokenizer(vocab=[(p, -float(i)) for i, p in enumerate(pieces)], extra_ids=0).save_pretrained(
        tmp_path / "tokenizer"
    )
    model = T5Text(CONFIG, str(tmp_path), vocabulary=384, window=8, pool=1, trained=False)
    prompt = "a cat mat"
    found = model.keywords([prompt], [("cat",)])[0].tolist()
    tokens = model.tokenizer.convert_ids_to_tokens(list(model.ids([prompt])[0]))
    assert "".join(t for t, yes in zip(tokens, found, strict=True) if yes).strip("▁") == "cat"
    assert not model.keywords([prompt], [("ca",)]).any()


LINES = [
    "a photo of a teddy bear and a cat",
    "caf\u00e9s and pots, a pot of tea",
    "boxes and berries, a box-like thing",
]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory) -> T5Text:
    """T5 with a trained SentencePiece model, whose normalisation (nmt_nfkc) rewrites the text that it reads."""
    import sentencepiece
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("sentencepiece")
    with open(folder / "spiece.model", "wb") as file:
        options = {"vocab_size": 70, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "hard_vocab_limit": False}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES * 20), model_writer=file, minloglevel=2, **options
        )
    T5Tokenizer.from_pretrained(folder, extra_ids=0).save_pretrained(folder / "tokenizer")
    return T5Text(CONFIG, str(folder), vocabulary=384, window=40, pool=1, trained=False)


@pytest.mark.parametrize(
    ("prompt", "word", "found"),
    [
        ("a  teddy  bear and a cat", "teddy-bear", "teddy  bear"),
        ("a Teddy-Bears cat", "teddy bear", "Teddy-Bears"),
        ("a cafe\u0301 and a cat", "cat", "cat"),  # what comes before is shorter once composed
        ("two \ufb01ne cafe\u0301s here", "caf\u00e9", "cafe\u0301s"),  # and longer: a ligature
        ("a category", "cat", ""),
        ("pots", "pot", "pots"),
    ],
)
def test_the_tokens_are_those_of_the_prompt_as_it_was_given(sentencepiece, prompt, word, found):
    """Both tokenizers: every marked token lies on the words, and all of the words' letters lie under one."""
    start = prompt.find(found)
    for model in (sentencepiece, text(window=40)):
        offsets = model._offsets(prompt)
        (marks,) = model.keywords([prompt], [(word,)]).tolist()
        places = [place for place, hit in zip(offsets, marks, strict=False) if hit and place[0] < place[1]]
        assert bool(places) == bool(found) and not any(marks[len(offsets) :])
        assert all(a < start + len(found) and b > start for a, b in places)
        under = {i for a, b in offsets for i in range(a, b)} & set(range(start, start + len(found))) if found else set()
        assert under <= {i for a, b in places for i in range(a, b)}
    assert marked(prompt, word, window=40) == found


PROMPTS = [
    "a red heart",
    "",
    "  two  spaces ",
    "Ünïcode ﬁ ½",
    "a cat, no 3.",
    "x\ny\tz",
    "日本の猫",
    "cafe\u0301",
    "ＦＵＬＬ １２３",
]


@pytest.mark.parametrize(
    ("repository", "folder"),
    [("zai-org/CogVideoX1.5-5B", "tokenizer"), ("black-forest-labs/FLUX.1-dev", "tokenizer_2")],
)
@pytest.mark.parametrize("how", ["by id", "pipeline's folder", "folder alone"])
def test_a_published_tokenizer_gives_sentencepieces_ids_and_the_end(repository, folder, how, hub):
    """CogVideoX1.5 has spiece.model alone, FLUX.1 tokenizer.json beside it; neither folder has a config.json."""
    from published.tokenizers import EXTRA, PIECES, sentencepiece_model
    from sentencepiece import SentencePieceProcessor

    found = located(Wanted("encoder.text.tokenizer", repository, folder))
    source = {"by id": repository, "pipeline's folder": str(found.parent), "folder alone": str(found)}[how]
    tokenizer = load_tokenizer(source, "encoder.text.tokenizer", folder)
    pieces = SentencePieceProcessor(model_proto=sentencepiece_model())
    for prompt in PROMPTS:
        assert tokenizer(prompt)["input_ids"] == [*pieces.encode(prompt), 1], prompt
    assert len({tuple(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}) == len(PROMPTS), "negative control"
    assert len(tokenizer) == PIECES + EXTRA and (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_clips_published_tokenizer_is_read_from_its_folder_alone(hub):
    from published.tokenizers import clip_words

    found = located(Wanted("k", "black-forest-labs/FLUX.1-dev", "tokenizer"))
    words, ids = (
        clip_words(),
        load_tokenizer(str(found), "encoder.text.clip.tokenizer", "tokenizer")("the cat")["input_ids"],
    )
    assert [words[i] for i in ids] == ["<|startoftext|>", "the</w>", "c", "a", "t</w>", "<|endoftext|>"]


def test_a_vocabulary_that_is_not_the_weights_is_refused_by_name(hub):
    from published import sizes
    from tiny import composed

    config = composed("+exp=fcd_mask_a", "scale=paper", *sizes("cogvideox"), "encoder.text.vocabulary=32128")
    with pytest.raises(ValueError, match=r"encoder.text.vocabulary is 32128, but the weights of 'zai-org.*' have 528"):
        build(config["encoder"]["text"])
    assert build(config["encoder"]["text"] | {"vocabulary": 528})
