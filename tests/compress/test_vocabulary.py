"""A pruned tokenizer cuts the corpus, and any text whose pieces all stay, as the whole one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from deploycomp.compress.prune.vocabulary import Change, Vocabulary, compare, prune_vocabulary, rewrite_files
from deploycomp.errors import InputRefused

DEMO = Path(__file__).parents[2] / "deploycomp" / "demo" / "data" / "train.jsonl"
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = 1200
KINDS = ("wordpiece", "bpe", "clip", "unigram", "fallback", "wordlevel")


@cache
def rows() -> tuple[str, ...]:
    """Real text; tokenizers are trained on all of it, and pruned to its first third."""
    return tuple(json.loads(line)["text"] for line in DEMO.read_text(encoding="utf-8").splitlines())


def corpus() -> tuple[str, ...]:
    return rows()[: len(rows()) // 3]


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=BERT, show_progress=False)
    tokenizer.train_from_iterator(rows(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=ROBERTA,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(rows(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def _clip() -> Tokenizer:
    """Pieces that end a word end in `</w>`; a text with an unseen character has an unknown piece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=ROBERTA, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(rows(), trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=ROBERTA, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(rows(), trainer)
    tokenizer.post_processor = _template("<s>", 0, "</s>", 2)
    return tokenizer


def _fallback() -> Tokenizer:
    """A character that is no piece is cut into its bytes."""
    document = json.loads(_unigram().to_str())
    document["model"]["byte_fallback"] = True
    document["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    return Tokenizer.from_str(json.dumps(document))


def _wordlevel() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=SIZE, special_tokens=BERT, show_progress=False)
    tokenizer.train_from_iterator(rows(), trainer)
    tokenizer.post_processor = processors.Sequence([_template("[CLS]", 2, "[SEP]", 3)])
    return tokenizer


def _template(first: str, first_id: int, last: str, last_id: int) -> Any:
    return processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(first, first_id), (last, last_id)],
    )


@cache
def built(kind: str) -> tuple[str, Vocabulary]:
    """Return a tokenizer with an added token, padding and truncation, and the same pruned."""
    tokenizer = globals()[f"_{kind}"]()
    tokenizer.add_tokens([AddedToken("hello world"), AddedToken("zzzyx")])
    tokenizer.enable_padding(pad_id=_pad(kind), pad_token="<pad>" if _pad(kind) else "[PAD]")
    tokenizer.enable_truncation(8)
    before = tokenizer.to_str()
    return before, prune_vocabulary(before, corpus(), pad_token_id=_pad(kind))


def _pad(kind: str) -> int:
    return 0 if kind in ("wordpiece", "wordlevel") else 1


def _plain(tokenizer: str) -> Tokenizer:
    reader = Tokenizer.from_str(tokenizer)
    reader.no_padding()
    reader.no_truncation()
    return reader


@cache
def readers(kind: str) -> tuple[Tokenizer, Tokenizer]:
    before, vocabulary = built(kind)
    return _plain(before), _plain(vocabulary.tokenizer)


def _old_ids(kind: str, text: str) -> list[int]:
    return [built(kind)[1].kept[index] for index in readers(kind)[1].encode(text).ids]


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_is_cut_as_before(kind: str) -> None:
    before, vocabulary = built(kind)
    assert vocabulary.pieces > len(vocabulary.kept) > 100
    assert vocabulary.kept == tuple(sorted(set(vocabulary.kept)))
    assert compare(before, vocabulary, corpus()) == Change(len(corpus()), 0, ())
    pairs = list(zip(corpus(), corpus()[1:], strict=False))
    assert compare(before, vocabulary, pairs).changed == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_texts_of_corpus_words_are_cut_as_before(kind: str, data: st.DataObject) -> None:
    # To a byte-level tokenizer, a word after a space is another word than the same at the start of a text.
    words = sorted({word for text in corpus() for word in text.split()[1:]})
    first = data.draw(st.sampled_from(sorted({text.split()[0] for text in corpus()})))
    text = " ".join([first, *data.draw(st.lists(st.sampled_from(words), max_size=12))])
    old = readers(kind)[0].encode(text).ids
    if kind in ("bpe", "clip") or set(old) <= set(built(kind)[1].kept):
        assert _old_ids(kind, text) == old


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_whose_pieces_all_stay_is_cut_as_before(kind: str) -> None:
    kept = set(built(kind)[1].kept)
    seen = set(" ".join(corpus()).split())
    words = sorted({word for text in rows() for word in text.split()} - seen)
    glued = [left + right for left, right in zip(words, words[7:], strict=False)]
    texts = [*rows(), *words, *glued, "hello world zzzyx", "naïve 東京☃ €5", "☃a b☃", "<mask>[MASK]"]
    covered = [text for text in texts if kept.issuperset(readers(kind)[0].encode(text).ids)]
    unseen = [text for text in covered if not seen.issuperset(text.split())]
    assert len(unseen) > 5, "the property would hold of nothing"
    for text in covered:
        assert _old_ids(kind, text) == readers(kind)[0].encode(text).ids, text


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="aeinorst h'?☃é", max_size=30), kind=st.sampled_from(KINDS))
def test_random_text_whose_pieces_all_stay_is_cut_as_before(text: str, kind: str) -> None:
    old = readers(kind)[0].encode(text).ids
    if set(old) <= set(built(kind)[1].kept):
        assert _old_ids(kind, text) == old


@pytest.mark.parametrize("kind", KINDS)
def test_what_always_stays(kind: str) -> None:
    before, vocabulary = built(kind)
    old, new = Tokenizer.from_str(before), Tokenizer.from_str(vocabulary.tokenizer)
    ids, now = old.get_vocab(with_added_tokens=True), new.get_vocab(with_added_tokens=True)
    specials = [*(BERT if kind in ("wordpiece", "wordlevel") else ROBERTA), "hello world", "zzzyx"]
    single = [piece for piece in ids if len(piece.removeprefix("##").removesuffix("</w>")) == 1]
    fallback = [piece for piece in ids if piece.startswith("<0x")]
    assert len(single) > 20 or kind == "wordlevel"
    assert len(fallback) == (256 if kind == "fallback" else 0)
    assert set(now) >= {*specials, *single, *fallback}
    assert now == {piece: vocabulary.kept.index(index) for piece, index in ids.items() if index in vocabulary.kept}
    assert sorted(now.values()) == list(range(len(vocabulary.kept)))
    assert vocabulary.kept[_pad(kind)] == _pad(kind)
    assert [str(token) for token in new.get_added_tokens_decoder().values()] == [
        str(token) for token in old.get_added_tokens_decoder().values()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_stay(kind: str) -> None:
    before, vocabulary = built(kind)
    old, new = json.loads(before), json.loads(vocabulary.tokenizer)
    assert new["truncation"] is not None
    assert new["padding"] is not None
    for document in (old, new):
        del document["model"]["vocab"], document["added_tokens"]
        document["model"].pop("merges", None)
    assert new == old


@pytest.mark.parametrize("kind", ["wordpiece", "wordlevel"])
@pytest.mark.parametrize("form", ["Bert", "Roberta", "Template", "Sequence"])
def test_the_post_processor_adds_the_new_ids(kind: str, form: str) -> None:
    tokenizer = Tokenizer.from_str(built(kind)[0])
    tokenizer.add_special_tokens(["[LAST]", "[FIRST]"])
    last, first = tokenizer.token_to_id("[LAST]"), tokenizer.token_to_id("[FIRST]")
    assert min(first, last) > 900
    template = _template("[FIRST]", first, "[LAST]", last)
    tokenizer.post_processor = {
        "Bert": lambda: processors.BertProcessing(("[LAST]", last), ("[FIRST]", first)),
        "Roberta": lambda: processors.RobertaProcessing(("[LAST]", last), ("[FIRST]", first)),
        "Template": lambda: template,
        "Sequence": lambda: processors.Sequence([processors.ByteLevel(), template]),
    }[form]()
    vocabulary = prune_vocabulary(tokenizer.to_str(), corpus(), pad_token_id=0)
    pruned = _plain(vocabulary.tokenizer)
    row = pruned.encode("play music")
    assert (row.tokens[0], row.tokens[-1]) == ("[FIRST]", "[LAST]")
    assert (row.ids[0], row.ids[-1]) == (pruned.token_to_id("[FIRST]"), pruned.token_to_id("[LAST]"))
    assert row.ids[0] < first
    assert compare(tokenizer.to_str(), vocabulary, corpus()).changed == 0


def test_padding_is_renumbered_where_no_position_depends_on_it() -> None:
    tokenizer = Tokenizer.from_str(built("bpe")[0])
    tokenizer.add_special_tokens(["[P]"])
    old = tokenizer.token_to_id("[P]")
    tokenizer.enable_padding(pad_id=old, pad_token="[P]")
    vocabulary = prune_vocabulary(tokenizer.to_str(), corpus(), pad_token_id=None)
    pruned = Tokenizer.from_str(vocabulary.tokenizer)
    assert vocabulary.kept[pruned.padding["pad_id"]] == old
    assert pruned.padding["pad_id"] == pruned.token_to_id("[P]") < old


def test_a_merge_that_only_leads_to_a_piece_stays() -> None:
    """`abcd` is merged from `ab` and `cd`, which no text is cut into."""
    vocab = {piece: index for index, piece in enumerate(["a", "b", "c", "d", "cd", "ab", "bc", "abcd", "abc"])}
    merges = [("c", "d"), ("a", "b"), ("b", "c"), ("ab", "cd"), ("ab", "c")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    vocabulary = prune_vocabulary(tokenizer.to_str(), ["abcd"], pad_token_id=None)
    pruned = json.loads(vocabulary.tokenizer)["model"]
    assert list(pruned["vocab"]) == ["a", "b", "c", "d", "cd", "ab", "abcd"]
    assert pruned["merges"] == [["c", "d"], ["a", "b"], ["ab", "cd"]]
    assert vocabulary.kept == (0, 1, 2, 3, 4, 5, 7)


def test_a_whole_word_that_no_merge_reaches_stays() -> None:
    """As in the tokenizers of tiktoken: a word of the vocabulary is taken without merging."""
    vocab = {piece: index for index, piece in enumerate(["a", "b", "ab", "aab", "bb"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")], ignore_merges=True))
    vocabulary = prune_vocabulary(tokenizer.to_str(), ["aab"], pad_token_id=None)
    assert list(json.loads(vocabulary.tokenizer)["model"]["vocab"]) == ["a", "b", "aab"]
    assert Tokenizer.from_str(vocabulary.tokenizer).encode("aab").tokens == ["aab"]


def test_old_spellings_are_read() -> None:
    """Merges as "a b" and a model that does not say what it is, as in the first files of RoBERTa."""
    before = built("bpe")[0]
    document = json.loads(before)
    document["model"].pop("type")
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    assert prune_vocabulary(json.dumps(document), corpus(), pad_token_id=1) == built("bpe")[1]


def test_the_cost_of_an_unknown_character_stays() -> None:
    """The worst piece sets it: without `bbb`, an unknown `x` and `ab` would cost less than `xa` and `b`."""
    vocab = [("<unk>", 0.0), ("a", -1.0), ("xa", -30.0), ("b", -50.0), ("ab", -1.0), ("bb", -25.0), ("bbb", -90.0)]
    tokenizer = Tokenizer(models.Unigram(vocab=vocab, unk_id=0, byte_fallback=False))
    vocabulary = prune_vocabulary(tokenizer.to_str(), ["ab", "xab"], pad_token_id=None)
    pruned = Tokenizer.from_str(vocabulary.tokenizer)
    assert tokenizer.encode("xab").tokens == pruned.encode("xab").tokens == ["xa", "b"]
    assert [piece for piece, _ in json.loads(vocabulary.tokenizer)["model"]["vocab"]] == [
        "<unk>",
        "a",
        "xa",
        "b",
        "ab",
        "bbb",
    ]


def test_the_unknown_id_of_unigram_does_not_move() -> None:
    """transformers writes it down in code, so ids before it stay even where no text needs them."""
    vocab = [
        ("<pad>", 0.0),
        ("not needed", -5.0),
        ("<unk>", 0.0),
        ("not needed either", -5.0),
        ("a", -1.0),
        ("b", -9.0),
    ]
    tokenizer = Tokenizer(models.Unigram(vocab=vocab, unk_id=2, byte_fallback=False))
    assert prune_vocabulary(tokenizer.to_str(), ["a"], pad_token_id=None).kept == (0, 1, 2, 4, 5)


def test_dropout_does_not_decide_what_stays() -> None:
    document = json.loads(built("bpe")[0])
    document["model"]["dropout"] = 0.9
    vocabulary = prune_vocabulary(json.dumps(document), corpus(), pad_token_id=1)
    assert vocabulary.kept == built("bpe")[1].kept
    assert json.loads(vocabulary.tokenizer)["model"]["dropout"] == pytest.approx(0.9)
    assert compare(json.dumps(document), vocabulary, corpus()).changed == 0


def test_also_stays() -> None:
    before, vocabulary = built("bpe")
    dropped = min(set(range(vocabulary.pieces)) - set(vocabulary.kept))
    again = prune_vocabulary(before, corpus(), pad_token_id=1, also=[dropped])
    assert set(again.kept) >= {*vocabulary.kept, dropped}


def test_long_texts_count_to_their_end_and_the_corpus_may_be_a_stream() -> None:
    before = built("wordpiece")[0]
    texts = [" ".join(corpus()[start : start + 10]) for start in range(0, len(corpus()), 10)]
    assert prune_vocabulary(before, (text for text in texts), pad_token_id=0) == built("wordpiece")[1]


def test_progress_ends_at_one() -> None:
    seen: list[float] = []
    prune_vocabulary(built("wordpiece")[0], rows(), pad_token_id=0, progress=lambda _, share: seen.append(share))
    assert seen == sorted(seen)
    assert len(seen) == -(-len(rows()) // 256)
    assert seen[-1] == pytest.approx(1.0)


def test_changes_are_counted_and_shown() -> None:
    before, vocabulary = built("wordpiece")
    old = readers("wordpiece")[0]
    dropped = [old.id_to_token(index) for index in sorted(set(range(vocabulary.pieces)) - set(vocabulary.kept))]
    words = [piece for piece in dropped if not piece.startswith("##")]
    change = compare(before, vocabulary, [*corpus()[:3], *(f"play {word} now" for word in words)])
    assert (change.rows, change.changed) == (3 + len(words), len(words))
    assert len(change.examples) == 5
    assert change.examples[0].startswith(f"{words[0]} → {words[0][0]}")
    assert "[CLS]" not in change.examples[0]


# --- files ------------------------------------------------------------------------------------------------------------


def _bert(folder: Path) -> None:
    from transformers import BertTokenizerFast

    vocab = json.loads(built("wordpiece")[0])["model"]["vocab"]
    ordered = sorted(vocab, key=vocab.__getitem__)
    folder.joinpath("vocab.txt").write_text("".join(f"{piece}\n" for piece in ordered), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=vocab)
    tokenizer.add_tokens(["zzzyx"])
    tokenizer.save_pretrained(folder)


def _roberta(folder: Path) -> None:
    from transformers import RobertaTokenizerFast

    model = json.loads(built("bpe")[0])["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    folder.joinpath("vocab.json").write_text(json.dumps(model["vocab"]))
    folder.joinpath("merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    RobertaTokenizerFast(vocab=model["vocab"], merges=merges).save_pretrained(folder)


def _xlmr(folder: Path) -> None:
    from transformers import XLMRobertaTokenizerFast

    vocab = [tuple(entry) for entry in json.loads(built("unigram")[0])["model"]["vocab"]]
    folder.joinpath("sentencepiece.bpe.model").write_bytes(b"not read")
    XLMRobertaTokenizerFast(vocab=vocab).save_pretrained(folder)


def _generic(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(built("bpe")[0]), pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    )
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(("save", "pad"), [(_bert, 0), (_roberta, 1), (_xlmr, 1), (_generic, 1)])
def test_a_saved_tokenizer_is_rewritten(tmp_path: Path, save: Callable[[Path], None], pad: int) -> None:
    from transformers import AutoTokenizer

    save(tmp_path)
    whole = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = prune_vocabulary(whole.backend_tokenizer.to_str(), corpus(), pad_token_id=pad)
    rewrite_files(tmp_path, vocabulary)
    pruned = AutoTokenizer.from_pretrained(tmp_path)
    assert type(pruned) is type(whole)
    assert len(pruned) == len(vocabulary.kept) < len(whole)
    assert (pruned.pad_token_id, whole.pad_token_id) == (pad, pad)
    assert pruned.all_special_tokens == whole.all_special_tokens
    assert [vocabulary.kept[index] for index in pruned.all_special_ids] == whole.all_special_ids
    for text in corpus():
        old, new = (each(text, corpus()[0], truncation=False)["input_ids"] for each in (whole, pruned))
        assert [vocabulary.kept[index] for index in new] == old
        assert pruned.decode(new) == whole.decode(old)


@pytest.mark.parametrize(("save", "names"), [(_bert, ["vocab.txt"]), (_roberta, ["vocab.json", "merges.txt"])])
def test_older_files_alone_give_the_same_tokenizer(
    tmp_path: Path, save: Callable[[Path], None], names: list[str]
) -> None:
    from transformers import AutoTokenizer

    save(tmp_path)
    whole = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = prune_vocabulary(whole.backend_tokenizer.to_str(), corpus(), pad_token_id=None)
    rewrite_files(tmp_path, vocabulary)
    assert {name for name in names if (tmp_path / name).is_file()} == set(names)
    (tmp_path / "tokenizer.json").unlink()
    pruned = AutoTokenizer.from_pretrained(tmp_path)
    for text in corpus():
        assert [vocabulary.kept[index] for index in pruned(text)["input_ids"]] == whole(text)["input_ids"]


def test_files_of_transformers_4(tmp_path: Path) -> None:
    before, vocabulary = built("unigram")
    old, new = (Tokenizer.from_str(text) for text in (before, vocabulary.tokenizer))
    added = {str(index): {"content": token.content} for index, token in old.get_added_tokens_decoder().items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added, "bos_token": "<s>"}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"zzzyx": old.token_to_id("zzzyx")}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    for name in ("spiece.model", "vocab.txt"):
        (tmp_path / name).write_text("what a Unigram tokenizer cannot rewrite")
    rewrite_files(tmp_path, vocabulary)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["bos_token"] == "<s>"
    assert config["added_tokens_decoder"] == {
        str(index): {"content": token.content} for index, token in new.get_added_tokens_decoder().items()
    }
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == {"zzzyx": new.token_to_id("zzzyx")}


# --- refusals ---------------------------------------------------------------------------------------------------------


def _refusal(what: str, **change: Any) -> InputRefused:
    arguments = {"tokenizer": built("bpe")[0], "texts": corpus(), "pad_token_id": 1} | change
    with pytest.raises(InputRefused, match=what) as caught:
        prune_vocabulary(**arguments)
    return caught.value


@pytest.mark.parametrize("texts", [[], [""], ["", "  "], [("", "")]])
def test_a_corpus_without_text_is_refused(texts: list[Any]) -> None:
    kind = "wordpiece"
    error = _refusal("the corpus has no text", texts=texts, tokenizer=built(kind)[0], pad_token_id=0)
    assert error.why is not None
    assert f"{len(texts)} rows" in error.why
    assert error.hint is not None


def test_an_unknown_kind_is_refused_by_name() -> None:
    document = json.loads(built("bpe")[0])
    document["model"]["type"] = "CharacterBPE"
    error = _refusal("of a CharacterBPE tokenizer", tokenizer=json.dumps(document))
    assert "BPE, Unigram, WordLevel, WordPiece" in str(error.why)


@pytest.mark.parametrize("text", ["", "[]", '{"model": 3}', "{"])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    assert _refusal("is not a tokenizer.json", tokenizer=text).exit_code == 3


def test_what_cannot_be_read_is_refused() -> None:
    assert _refusal("the tokenizer cannot be read", tokenizer='{"model": {"type": "BPE"}}').why


def test_a_padding_id_that_would_move_is_refused() -> None:
    tokenizer = Tokenizer.from_str(built("bpe")[0])
    tokenizer.add_special_tokens(["[P]"])
    pad = tokenizer.token_to_id("[P]")
    assert pad > 1000
    error = _refusal(f"the padding id {pad} cannot stay", tokenizer=tokenizer.to_str(), pad_token_id=pad)
    assert "positions are counted from it" in str(error.why)
    assert "leave vocabulary pruning out" in str(error.hint)


def test_a_padding_id_in_the_middle_keeps_all_before_it() -> None:
    before = built("bpe")[0]
    vocabulary = prune_vocabulary(before, corpus(), pad_token_id=900)
    assert vocabulary.kept[:901] == tuple(range(901))
    assert compare(before, vocabulary, corpus()).changed == 0


def test_an_id_without_a_piece_is_refused() -> None:
    assert "1 such ids" in str(_refusal("id 99999 must stay", also=[99999]).why)


def test_ids_that_cannot_be_made_dense_are_refused() -> None:
    document = json.loads(built("wordpiece")[0])
    vocab = document["model"]["vocab"]
    hole = next(piece for piece, index in vocab.items() if index == 700)
    del vocab[hole]  # the added tokens now share an id with the last piece
    error = _refusal("cannot be numbered anew", tokenizer=json.dumps(document), pad_token_id=0)
    assert "other ids when the file is loaded" in str(error.why)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
def test_a_token_that_only_the_files_know_is_refused(tmp_path: Path, name: str) -> None:
    content: Any = {"extra": 7}
    if name == "tokenizer_config.json":
        content = {"added_tokens_decoder": {"7": {"content": "extra"}}}
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputRefused, match=f"{name} adds the token 'extra'"):
        rewrite_files(tmp_path, built("bpe")[1])


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_a_real_tokenizer(shared_models: Path, shared_data: Path) -> None:
    before = (shared_models / "minilm-l6-clinc150" / "tokenizer.json").read_text(encoding="utf-8")

    def texts(split: str, *, oos: bool = True) -> list[str]:
        lines = (shared_data / "clinc150" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [row["text"] for row in rows if oos or row["label"] != "oos"]

    vocabulary = prune_vocabulary(before, texts("train"), pad_token_id=0)
    assert vocabulary.pieces == 30522
    assert len(vocabulary.kept) <= vocabulary.pieces / 2
    assert compare(before, vocabulary, texts("train")).changed == 0
    # Test rows: 1,384 of 5,500 change, since 1,000 of them are out of scope and speak of what training does not.
    held_out = compare(before, vocabulary, texts("test"))
    assert held_out.rows == 5500
    assert 0.2 < held_out.changed / held_out.rows < 0.3
    # BERT's ids are ordered by frequency: its first 10,000 halve the change in scope, and over half is still saved.
    wider = prune_vocabulary(before, texts("train"), pad_token_id=0, also=range(10_000))
    assert len(wider.kept) <= wider.pieces / 2
    in_scope = compare(before, wider, texts("test", oos=False))
    assert in_scope.changed < 0.1 * in_scope.rows
    assert compare(before, vocabulary, texts("test", oos=False)).changed > 1.5 * in_scope.changed


def test_a_piece_for_a_character_that_no_word_has_inside_goes() -> None:
    """BERT makes words of marks and Chinese characters; the same piece behind another pre-tokenizer may be reached."""
    document = json.loads(_wordpiece().to_str())
    size = len(document["model"]["vocab"])
    document["model"]["vocab"] |= {"##.": size, "##中": size + 1, "##ъ": size + 2, "中": size + 3, "ъ": size + 4}
    before = json.dumps(document)
    vocabulary = prune_vocabulary(before, corpus(), pad_token_id=0)
    pieces = Tokenizer.from_str(vocabulary.tokenizer).get_vocab()
    assert {"##ъ", "中", "ъ", "."} <= set(pieces)
    assert not {"##.", "##中"} & set(pieces)
    texts = ["it is. a中b aъъ", "中中. ъ.ъ", "a.b中.ъ"]
    assert compare(before, vocabulary, texts) == Change(3, 0, ())
    document["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    document["normalizer"] = None
    other = prune_vocabulary(json.dumps(document), corpus(), pad_token_id=0)
    assert {"##.", "##中"} <= set(Tokenizer.from_str(other.tokenizer).get_vocab())
