"""SentencePiece unigram models, ALBERT's tokenizers, from a bare model file.

The clean-up of text is that of ALBERT and of transformers' AlbertTokenizer: two grave accents or apostrophes become a
double quote, accents and case are dropped unless asked for. The ids are those that the sentencepiece package gives to
the cleaned text, but for ALBERT's own rule that no piece ends in a digit and a comma: "2010," is "2010" and ",". The
rule is kept as in the tokenizer.json files published with ALBERT: such pieces have a score at which they are never the
best. (From a folder with a bare spiece.model, transformers 5 builds another tokenizer: it knows no such rule, and
starts a new word after each of ``( ) " - .``. Such a folder is read so here, too; the file by itself is not.)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import models

from ds_bert.data import special_tokens
from ds_bert.data.special_tokens import refuse_missing
from ds_bert.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEVER_BEST = -100.0  # a log-probability far below that of any piece


def read_model(path: Path, config: Mapping[str, Any]) -> "PreTrainedTokenizerBase":
    """Build ALBERT's tokenizer from a SentencePiece model.

    Args:
        path: of the model.
        config: what tokenizer_config.json says: ``do_lower_case`` (true if absent) and ``keep_accents`` (false).

    Raises:
        UserError: the file is no SentencePiece model, one of another kind than unigram, or lacks a special token.
    """
    # Through the package's own message classes: its processor does not tell the normaliser.
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    from transformers import AlbertTokenizer

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: no SentencePiece model ({error})") from None
    if not proto.pieces or proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        found = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type).lower() if proto.pieces else "empty"
        raise UserError(f"{path}: its SentencePiece model is {found}, but needed is a unigram model such as ALBERT's")
    pieces = [(piece.piece, _NEVER_BEST if _ends_in_number(piece.piece) else piece.score) for piece in proto.pieces]
    refuse_missing({piece for piece, _ in pieces}, special_tokens.SENTENCEPIECE, path)
    tokenizer = AlbertTokenizer(
        vocab=pieces,
        do_lower_case=bool(config.get("do_lower_case", True)),
        keep_accents=bool(config.get("keep_accents", False)),
        _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap or None,
    )
    tokenizer.backend_tokenizer.model = models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=False)
    return tokenizer


def _ends_in_number(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def continues_word(piece: str) -> bool:
    """Say whether a piece continues the word before it: English letters that do not begin one.

    Digits, signs and other scripts stand for themselves, as when ALBERT's words were masked.
    """
    return piece.isascii() and piece.isalpha()
