"""SentencePiece unigram models, ALBERT's tokenizers, as backends of the tokenizers library.

The clean-up of text is that of ALBERT and of transformers' AlbertTokenizer: two grave accents or apostrophes become a
double quote, accents and case are dropped unless asked for. The ids are those that the sentencepiece package gives to
the cleaned text, but for ALBERT's own rule that no piece ends in a digit and a comma: "2010," is "2010" and ",". The
rule is kept as in the tokenizer.json files published with ALBERT: such pieces have a score at which they are never the
best. (From a bare spiece.model, transformers 5 builds another tokenizer: it knows no such rule, and starts a new word
after each of ``( ) " - .``.)
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ds_bert.errors import UserError

SPECIAL_TOKENS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
MODEL_FILE = "spiece.model"  # as transformers calls it
_WORD_START = "▁"
_NEVER_BEST = -100.0  # a log-probability far below that of any piece


def read_model(path: Path, lower_case: bool = True, keep_accents: bool = False) -> tokenizers.Tokenizer:
    """Build ALBERT's tokenizer from a SentencePiece model, which may lack special tokens.

    Raises:
        UserError: the file is no SentencePiece model, or one of another kind than unigram.
    """
    # Through the package's own message classes: its processor does not tell the normaliser.
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: no SentencePiece model ({error})") from None
    if not proto.pieces or proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        found = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type).lower() if proto.pieces else "empty"
        raise UserError(f"{path}: its SentencePiece model is {found}, but needed is a unigram model such as ALBERT's")
    pieces = [(piece.piece, _NEVER_BEST if _ends_in_number(piece.piece) else piece.score) for piece in proto.pieces]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=False))
    backend.normalizer = _normalizer(proto.normalizer_spec.precompiled_charsmap, lower_case, keep_accents)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    ids = {piece: place for place, (piece, _) in enumerate(pieces)}
    if "[CLS]" in ids and "[SEP]" in ids:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
        )
    backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in ids])
    return backend


def _ends_in_number(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _normalizer(character_map: bytes, lower_case: bool, keep_accents: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not keep_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if lower_case:
        steps.append(normalizers.Lowercase())
    if character_map:
        steps.append(normalizers.Precompiled(character_map))
    return normalizers.Sequence(steps)


def read_special_pieces_as_text(backend: tokenizers.Tokenizer) -> None:
    """Keep "[MASK]" written in a text from becoming the special token, which is a piece of the model like others."""
    model = json.loads(backend.to_str())["model"]
    pieces = [(piece, min(score, _NEVER_BEST) if piece in SPECIAL_TOKENS else score) for piece, score in model["vocab"]]
    backend.model = models.Unigram(pieces, unk_id=model["unk_id"], byte_fallback=model.get("byte_fallback", False))


def continues_word(piece: str) -> bool:
    """Say whether a piece continues the word before it: English letters that do not begin one.

    Digits, signs and other scripts stand for themselves, as when ALBERT's words were masked.
    """
    return piece.isascii() and piece.isalpha()


def decisive(backend: tokenizers.Tokenizer) -> list[Any]:
    """Return what decides the ids of a text beside the tokens and the normalisation, as JSON can hold it."""
    state = json.loads(backend.to_str())
    # The library reads back numbers in JSON that may differ in the last digit; they were fp32 once.
    scores = np.array([score for _, score in state["model"]["vocab"]]).astype(np.float32).tolist()
    return [scores, state.get("pre_tokenizer"), _extra_tokens(state["added_tokens"])]


def tokenizer_config(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return what tokenizer_config.json tells transformers of the backend."""
    state = json.loads(backend.to_str())
    normalizer = state.get("normalizer") or {}
    steps = {step["type"] for step in normalizer.get("normalizers", [normalizer]) if "type" in step}
    return {
        "tokenizer_class": "AlbertTokenizer",
        "do_lower_case": "Lowercase" in steps,
        "keep_accents": "StripAccents" not in steps,
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "extra_special_tokens": _extra_tokens(state["added_tokens"]),
    }


def _extra_tokens(added: Iterable[dict[str, Any]]) -> list[str]:
    return [token["content"] for token in added if token["content"] not in SPECIAL_TOKENS]
