"""Tokenizer folders in the layouts that transformers reads, and texts that are awkward for them."""

import itertools
import json
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AlbertTokenizer, BertTokenizer, PreTrainedTokenizerFast

from ds_bert.data.vocabulary import Tokenizer
from ds_bert.tasks.squad.features import tokenise_contexts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = ["the", "The", "cat", "saw", "möchte", "mochte", "Möchte", "café", "cafe", "北京", "北", "京", "i", "İ", "ß"]
_LETTERS = string.ascii_letters + string.digits + "äöüéñ"
# fmt: off
TEXTS = [
    "", " ", "the cat", "The Cat saw", "Möchte möchte mochte", "café cafe\u0301 CAFÉ", "北京 the北京cat", "[MASK]",
    "the [MASK] cat", "the[MASK]cat", "[mask] [SEP] [CLS] [PAD] [UNK]", "the [SEP] cat [SEP]", "[E1] Bill",
    "[E1]Bill[/E1]", "the [E1]  cat  [/E1] saw", "[e1] cat", "covid19 Covid19 covid19s xcovid19", " covid19 ,",
    "new york New York new yorks", "the\tcat\nsaw\u00a0the\u3000cat", "don't (ever) 1234.5!?",
    "\u200bthe\u200b \ufeff cat\u0000\ufffd", "İstanbul ß ẞ ﬁ ½", "<mask> <pad> <s> </s> [PAD]",
    "the <mask>cat", "🙂 the 👩\u200d👩\u200d👧 cat", "``the'' cat--saw", "x" * 120, "[MASK", "MASK]", "[ MASK ]",
    "2010, 3,14 (the) \"cat\" - the.", "▁the ▁ cat", "##cat ##the", "٠١ ١٢", "e\u0301\u0323 ṩ",
]
# fmt: on
FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


def ids_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of each text, from a `Tokenizer` or a `CorpusTokenizer`."""
    ids, lengths = tokenizer.encode(texts)
    ends = itertools.accumulate(lengths.tolist(), initial=0)
    return [ids[begin:end].tolist() for begin, end in itertools.pairwise(ends)]


def assert_same(tokenizer: Tokenizer, theirs: Any) -> list[list[int]]:
    """Compare with transformers: ids, offsets, special ids, single texts and pairs of `TEXTS`; return the ids."""
    ids = ids_of(tokenizer, TEXTS)
    found = theirs(TEXTS, add_special_tokens=False, return_offsets_mapping=True)
    assert found["input_ids"] == ids
    encodings = tokenizer.backend.encode_batch(TEXTS, add_special_tokens=False)
    assert found["offset_mapping"] == [encoding.offsets for encoding in encodings]
    assert tokenise_contexts(tokenizer, TEXTS).ids.tolist() == list(itertools.chain(*ids))
    assert theirs(TEXTS)["input_ids"] == [[tokenizer.cls_id, *each, tokenizer.sep_id] for each in ids]
    pairs = theirs(TEXTS, TEXTS[::-1], return_token_type_ids=True)
    for first, second, pair, types in zip(ids, ids[::-1], pairs["input_ids"], pairs["token_type_ids"], strict=True):
        assert pair == [tokenizer.cls_id, *first, tokenizer.sep_id, *second, tokenizer.sep_id]
        assert types == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    for role in ("pad", "unk", "cls", "sep", "mask"):
        named = getattr(theirs, f"{role}_token_id")
        assert named in (None, getattr(tokenizer, f"{role}_id"))  # None: a tokenizer.json by itself names none
    return ids


def wordpiece_tokens() -> list[str]:
    """A cased vocabulary of words, letters and signs."""
    letters = [mark + letter for letter in _LETTERS for mark in ("", "##")]
    return [*SPECIAL, *_WORDS, *letters, *string.punctuation, "##at", "new", "york", "covid"]


def albert_pieces() -> list[tuple[str, float]]:
    """Unigram pieces with their scores, ALBERT's special ones first."""
    special = [(token, 0.0) for token in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")]
    letters = [(letter, -8.0 - place / 100) for place, letter in enumerate(_LETTERS + string.punctuation)]
    return [*special, ("▁", -4.0), *((f"▁{word}", -5.0) for word in _WORDS), *letters, ("2010,", -6.0), ("▁new", -5.5)]


def added_tokens() -> dict[str, list[AddedToken]]:
    """Lists of tokens that a user may have added, of all flags."""
    kinds = {
        "none": [],
        "special": [AddedToken(text, special=True, normalized=False) for text in ("[E1]", "[/E1]")],
        "words": [AddedToken("covid19"), AddedToken("new york"), AddedToken("Covid19", normalized=False)],
    }
    for flag in FLAGS:
        for special in (False, True):
            kinds[f"{flag}{'-special' if special else ''}"] = [
                AddedToken(text, special=special, **{flag: True}) for text in ("covid19", "[E1]", "New York")
            ]
    return kinds


def bert_folders(root: Path) -> Iterator[Path]:
    """Write BERT's folders: settings, layouts, added tokens and configurations, in many combinations."""
    settings: list[dict[str, Any]] = [
        {} | case | accents | chinese
        for case in ({}, {"do_lower_case": True}, {"do_lower_case": False})
        for accents in ({}, {"strip_accents": False}, {"strip_accents": True})
        for chinese in ({}, {"tokenize_chinese_chars": False})
    ]
    kinds = added_tokens()
    for number, (choice, added) in enumerate(itertools.product(settings, kinds)):
        tokenizer = BertTokenizer(vocab={token: place for place, token in enumerate(wordpiece_tokens())}, **choice)
        tokenizer.add_tokens(kinds[added])
        layout = ("fast", "slow", "both", "old")[number % 4]
        config = {"model_type": "bert"} if number % 3 else None
        _write(root / f"bert-{number:03d}-{layout}-{added}", tokenizer, layout, choice, config)
    yield from sorted(root.glob("bert-*"))


def albert_folders(root: Path) -> Iterator[Path]:
    """Write ALBERT's folders with a tokenizer.json."""
    choices = [{"do_lower_case": case, "keep_accents": accents} for case in (True, False) for accents in (True, False)]
    kinds = added_tokens()
    for number, (choice, added) in enumerate(itertools.product(choices, kinds)):
        tokenizer = AlbertTokenizer(vocab=albert_pieces(), **choice)
        tokenizer.add_tokens([AddedToken("[MASK]", lstrip=True, special=True), *kinds[added]])
        config = {"model_type": "albert"} if number % 2 else None
        _write(root / f"albert-{number:03d}-{added}", tokenizer, "fast", choice, config)
    yield from sorted(root.glob("albert-*"))


def odd_folders(root: Path) -> Iterator[Path]:
    """Write folders that say more, less or other than usual."""
    vocabulary = {token: place for place, token in enumerate(wordpiece_tokens())}
    cased = BertTokenizer(vocab=vocabulary, do_lower_case=False)
    cased.add_tokens(added_tokens()["special"])
    bert, albert = {"model_type": "bert"}, {"model_type": "albert"}
    for name, changes in {
        "bare-json": None,
        "fast-class": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "mask_token": "[MASK]"},
        "backend-class": {"tokenizer_class": "TokenizersBackend"},
        "bert-fast-class": {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True},
        "distil": {"tokenizer_class": "DistilBertTokenizer"},
        "electra": {"tokenizer_class": "ElectraTokenizerFast", "strip_accents": False},
        "unknown-class": {"tokenizer_class": "NobodysTokenizer"},
        "japanese": {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"},
        "legacy": {"tokenizer_class": "BertTokenizerLegacy"},
        "roberta": {"tokenizer_class": "RobertaTokenizer"},
        "split": {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "split_special_tokens": True},
        "left": {"tokenizer_class": "BertTokenizer", "padding_side": "left", "truncation_side": "left"},
        "other-mask": {"tokenizer_class": "BertTokenizer", "mask_token": "<mask>"},
        "named-token": {"tokenizer_class": "BertTokenizer", "entity_token": "[E2]"},
        "extra": {"tokenizer_class": "BertTokenizer", "extra_special_tokens": ["the", "[E3]"]},
        "extra-named": {"tokenizer_class": "BertTokenizer", "extra_special_tokens": {"entity_token": "[E4]"}},
        "additional": {"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["[E5]", "cat"]},
        "remote-code": {"tokenizer_class": "BertTokenizer", "auto_map": {"AutoTokenizer": ["x.Slow", "x.Fast"]}},
        "broken": {"tokenizer_class": "BertTokenizer", "do_lower_case": "false"},
        "versions": {"tokenizer_class": "BertTokenizer", "fast_tokenizer_files": ["tokenizer.4.0.json"]},
    }.items():
        for config in (None, bert, albert):
            for layout in ("fast", "slow"):
                folder = root / f"odd-{name}-{config['model_type'] if config else 'none'}-{layout}"
                _write(folder, cased, layout, changes or {}, config)
                if changes is None:
                    (folder / "tokenizer_config.json").unlink(missing_ok=True)
                else:
                    (folder / "tokenizer_config.json").write_text(json.dumps(changes))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cased.backend_tokenizer, mask_token="[MASK]")
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.save_pretrained(root / "odd-truncating")
    cased.backend_tokenizer.save(str(root / "odd-truncating" / "tokenizer.json"))
    yield from sorted(root.glob("odd-*"))


def _write(
    folder: Path, tokenizer: Any, layout: str, choices: Mapping[str, Any], config: Mapping[str, Any] | None
) -> None:
    """Write a tokenizer as transformers 5 does ("fast"), as its older slow classes did, as "both", or as "old" ones."""
    folder.mkdir(parents=True)
    if layout != "slow":
        tokenizer.save_pretrained(folder)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    if layout == "fast":
        return
    added = {
        place: token for place, token in tokenizer.added_tokens_decoder.items() if place >= len(wordpiece_tokens())
    }
    settings = {"tokenizer_class": "BertTokenizer", **choices}
    if layout == "old":  # before tokenizer_config.json had the added tokens
        (folder / "tokenizer.json").unlink()
        extra = [token.content for token in added.values() if token.special]
        named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
        named_and_extra = {**named, **({"additional_special_tokens": extra} if extra else {})}
        (folder / "special_tokens_map.json").write_text(json.dumps(named_and_extra))
        if added:
            ids = {token.content: place for place, token in added.items()}
            (folder / "added_tokens.json").write_text(json.dumps(ids))
    else:
        decoder = tokenizer.added_tokens_decoder
        settings["added_tokens_decoder"] = {str(place): token.__getstate__() for place, token in decoder.items()}
    if config and not choices and layout == "old":
        (folder / "tokenizer_config.json").unlink()
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in wordpiece_tokens()), encoding="utf-8")
