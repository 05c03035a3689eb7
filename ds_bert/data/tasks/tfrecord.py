"""TFRecord files: records of bytes, each with its length and the checksums of both, without TensorFlow.

A record is its length (uint64, little endian), the length's checksum (uint32), the bytes, and their checksum (uint32).
A checksum is a CRC-32C that is rotated by 15 bits and shifted by a constant.
"""

import struct
from collections.abc import Iterator, Sequence
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
