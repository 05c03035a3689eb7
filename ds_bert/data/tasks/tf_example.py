"""tf.train.Example, the content of TFRecords: named lists of integers, in the wire format of protocol buffers.

An Example holds Features (field 1), which holds map entries (field 1) of a name (1) and a Feature (2), which holds an
Int64List (3), which holds varints (1), packed or one by one. Other lists and unknown fields are passed over.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_INT64_LIST = 3
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


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
