"""TFRecord files of tf.train.Example, without TensorFlow.

A record is its length (uint64, little endian), the length's checksum (uint32), the bytes of an Example, and their
checksum (uint32). A checksum is a CRC-32C that is rotated by 15 bits and shifted by a constant.

An Example is a message of protocol buffers. It holds Features (field 1), which holds map entries (field 1) of a name
(1) and a Feature (2), which holds an Int64List (3), which holds varints (1), packed or one by one. Other lists and
unknown fields are passed over.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ds_bert.errors import UserError

_LARGEST = 1 << 20  # bytes of a record; an example of 512 tokens has some 5,000
_RECORDS_AT_A_TIME = 1024
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_SHIFT = 0xA282EAD8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_INT64_LIST = 3
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


class _Raw(NamedTuple):
    header: bytes
    header_checksum: int
    data: bytes
    data_checksum: int


def _make_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_TABLE = _make_table()


def masked_checksums(blocks: Sequence[bytes]) -> np.ndarray:
    """Return TFRecord's checksum of each of some byte strings, uint32 (blocks,); all are gone through at once."""
    lengths = np.array([len(block) for block in blocks], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    width = int(lengths.max(initial=0))
    padded = np.frombuffer(b"".join(blocks[place].ljust(width, b"\0") for place in order), dtype=np.uint8)
    columns = np.ascontiguousarray(padded.reshape(len(blocks), width).T)
    # The longest come first, so those that have a byte left are a prefix.
    left = np.searchsorted(-lengths[order], -np.arange(width), side="left")
    crc = np.full(len(blocks), 0xFFFFFFFF, dtype=np.uint32)
    for column, count in zip(columns, left.tolist(), strict=True):
        crc[:count] = _TABLE[(crc[:count] ^ column[:count]) & 0xFF] ^ (crc[:count] >> 8)
    crc ^= np.uint32(0xFFFFFFFF)
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(_SHIFT)
    result = np.empty_like(masked)
    result[order] = masked
    return result


def frame_records(records: Sequence[bytes]) -> bytes:
    """Return records as a TFRecord file has them."""
    headers = [struct.pack("<Q", len(record)) for record in records]
    of_headers, of_records = masked_checksums(headers).tolist(), masked_checksums(records).tolist()
    parts: list[bytes] = []
    for header, record, of_header, of_record in zip(headers, records, of_headers, of_records, strict=True):
        parts += [header, _CHECKSUM.pack(of_header), record, _CHECKSUM.pack(of_record)]
    return b"".join(parts)


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, checked.

    Raises:
        UserError: naming the file and the record, counted from 1, that is cut off, or whose checksum is wrong.
    """
    try:
        with open(path, "rb") as file:
            number = 1
            raw = _raw_records(file, path)
            while chunk := list(islice(raw, _RECORDS_AT_A_TIME)):
                _verify(chunk, number, path)
                yield from (record.data for record in chunk)
                number += len(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); needs a TFRecord file") from None


def _raw_records(file: BinaryIO, path: Path) -> Iterator[_Raw]:
    number = 1
    while start := file.read(_HEADER.size):
        where = f"{path}: record {number}"
        if len(start) < _HEADER.size:
            raise UserError(f"{where}: the file ends within its length; restore the file")
        length, header_checksum = _HEADER.unpack(start)
        if length > _LARGEST:
            _verify([_Raw(start[:8], header_checksum, b"", int(masked_checksums([b""])[0]))], number, path)
            raise UserError(f"{where}: has {length} bytes, needs at most {_LARGEST}, as an encoded example has")
        data = file.read(length)
        end = file.read(_CHECKSUM.size)
        if len(data) < length or len(end) < _CHECKSUM.size:
            missing = length + _CHECKSUM.size - len(data) - len(end)
            raise UserError(f"{where}: the file ends {missing} bytes too early; restore the file")
        yield _Raw(start[:8], header_checksum, data, _CHECKSUM.unpack(end)[0])
        number += 1


def _verify(records: Sequence[_Raw], first: int, path: Path) -> None:
    of_headers = masked_checksums([record.header for record in records])
    of_data = masked_checksums([record.data for record in records])
    for place, record in enumerate(records):
        where = f"{path}: record {first + place}"
        if of_headers[place] != record.header_checksum:
            raise UserError(f"{where}: the checksum of its length is wrong; needs an undamaged TFRecord file")
        if of_data[place] != record.data_checksum:
            raise UserError(f"{where}: the checksum of its content is wrong; needs an undamaged TFRecord file")


class BadExample(ValueError):
    """Bytes that are no Example; the message says why."""


def encode_example(features: Mapping[str, Sequence[int]]) -> bytes:
    """Return the Example of some lists of integers."""
    entries = []
    for name, values in features.items():
        packed = b"".join(_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values)
        feature = _field(_INT64_LIST, _field(1, packed))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode_example(data: bytes) -> dict[str, np.ndarray]:
    """Return the lists of integers of an Example, each int64.

    Raises:
        BadExample: the bytes are no Example.
    """
    features: dict[str, np.ndarray] = {}
    for features_message in _messages(data, 1):
        for entry in _messages(features_message, 1):
            names = _messages(entry, 1)
            try:
                name = names[-1].decode() if names else ""
            except UnicodeDecodeError:
                raise BadExample("a name that is not UTF-8") from None
            lists = [item for feature in _messages(entry, 2) for item in _messages(feature, _INT64_LIST)]
            if lists:
                features[name] = _integers(lists[-1])
    return features


def _integers(data: bytes) -> np.ndarray:
    packed = [value for number, wire_type, value in _fields(data) if number == 1 and wire_type in (_VARINT, _BYTES)]
    return _varints(b"".join(packed))


def _varints(data: bytes) -> np.ndarray:
    """Decode varints laid end to end, int64."""
    values = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(values < 0x80)
    if len(values) and (not len(ends) or ends[-1] != len(values) - 1):
        raise BadExample("an integer is cut off")
    if len(ends) == len(values):
        return values.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(values)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 9:
        raise BadExample("an integer of more than 64 bits")
    shifted = (values & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.bitwise_or.reduceat(shifted, starts).astype(np.int64)


def _messages(data: bytes, wanted: int) -> list[bytes]:
    """Return the byte strings of a field."""
    return [value for number, wire_type, value in _fields(data) if number == wanted and wire_type == _BYTES]


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (field number, wire type, bytes) of a message; of a varint, its own bytes."""
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        start = place
        if wire_type == _VARINT:
            _, place = _read_varint(data, place)
        elif wire_type == _BYTES:
            length, start = _read_varint(data, place)
            place = start + length
        elif wire_type in _FIXED_SIZES:
            place += _FIXED_SIZES[wire_type]
        else:
            raise BadExample(f"wire type {wire_type}")
        if number == 0 or place > len(data):
            raise BadExample("a field is cut off" if number else "field number 0")
        yield number, wire_type, data[start:place]


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise BadExample("an integer is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise BadExample("an integer of more than 64 bits")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data
