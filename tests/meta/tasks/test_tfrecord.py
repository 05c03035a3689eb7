import struct
from pathlib import Path

import numpy as np
import pytest

from ds_bert.errors import UserError
from ds_bert.meta.tasks.tfrecord import (
    BadExample,
    decode_example,
    encode_example,
    frame_records,
    masked_checksums,
    read_records,
)

RECORDS = [b"", b"one", b"two" * 100, b"\0" * 7]


def plain_checksum(data: bytes) -> int:
    """The masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_checksum_is_crc_32c() -> None:
    crc = 0xE3069283  # the standard's check value, of "123456789"
    assert plain_checksum(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    rng = np.random.default_rng(0)
    blocks = [b"123456789", *(rng.bytes(length) for length in (0, 5, 1, 33, 5))]
    assert masked_checksums(blocks).tolist() == [plain_checksum(block) for block in blocks]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a_2.tf_record"
    path.write_bytes(frame_records(RECORDS))
    return path


def test_records_read_back(file: Path) -> None:
    assert list(read_records(file)) == RECORDS
    content, plain = file.read_bytes(), b""
    for record in RECORDS:
        header = struct.pack("<Q", len(record))
        plain += header + struct.pack("<I", plain_checksum(header)) + record + struct.pack("<I", plain_checksum(record))
    assert content == plain


def test_every_damaged_byte_is_found(file: Path) -> None:
    content = file.read_bytes()
    for place in (0, 9, 13, 16, 20, 33, 37, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        file.write_bytes(bytes(damaged))
        with pytest.raises(UserError, match=r"a_2\.tf_record: record [1-4]: "):
            list(read_records(file))


@pytest.mark.parametrize("cut", [1, 4, 6, 12, 18, 19, 100])
def test_a_file_that_is_cut_off_is_refused(file: Path, cut: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-cut])
    with pytest.raises(UserError, match=r"record [34]: "):
        list(read_records(file))


def test_a_record_too_large_is_refused_before_it_is_read(file: Path) -> None:
    header = struct.pack("<Q", 1 << 40)
    file.write_bytes(header + struct.pack("<I", plain_checksum(header)))
    with pytest.raises(UserError, match="record 1: has 1099511627776 bytes"):
        list(read_records(file))


VALUES = {"input_ids": [101, 0, 127, 128, 30521], "label_ids": [2], "wide": [-1, 2**63 - 1, -(2**63)], "none": []}


def test_examples_read_back() -> None:
    found = decode_example(encode_example(VALUES))
    assert {name: values.tolist() for name, values in found.items()} == VALUES


@pytest.mark.parametrize("packed", [True, False])
def test_examples_are_those_of_protocol_buffers(packed: bool) -> None:
    message = protobuf_example(packed)
    for name, values in VALUES.items():
        message.features.feature[name].int64_list.value.extend(values)
    message.features.feature["text"].bytes_list.value.append(b"passed over")
    message.features.feature["weight"].float_list.value.append(0.5)
    found = decode_example(message.SerializeToString())
    assert {name: values.tolist() for name, values in found.items()} == VALUES
    ours = protobuf_example(True)
    ours.ParseFromString(encode_example(VALUES))
    assert {name: list(feature.int64_list.value) for name, feature in ours.features.feature.items()} == VALUES


def protobuf_example(packed: bool):  # type: ignore[no-untyped-def]
    """An empty tf.train.Example of the protobuf package."""
    descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptors.FileDescriptorProto(name=f"example_{packed}.proto", package=f"p{packed}", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str], parent=file.message_type):  # type: ignore[no-untyped-def]
        added = parent.add(name=name)
        for field, number, label, kind, type_name in fields:
            one = added.field.add(name=field, number=number, label=label, type=kind)
            if type_name:
                one.type_name = f".p{packed}.{type_name}"
        return added

    one, many, text, sub, integer, real = 1, 3, 12, 11, 3, 2
    message("BytesList", ("value", 1, many, text, ""))
    message("FloatList", ("value", 1, many, real, ""))
    message("Int64List", ("value", 1, many, integer, "")).field[0].options.packed = packed
    lists = [("bytes_list", 1, one, sub, "BytesList"), ("float_list", 2, one, sub, "FloatList")]
    message("Feature", *lists, ("int64_list", 3, one, sub, "Int64List"))
    features = message("Features", ("feature", 1, many, sub, "Features.FeatureEntry"))
    key, value = ("key", 1, one, 9, ""), ("value", 2, one, sub, "Feature")
    message("FeatureEntry", key, value, parent=features.nested_type).options.map_entry = True
    message("Example", ("features", 1, one, sub, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p{packed}.Example"))()


def test_bytes_that_are_no_example_are_refused() -> None:
    data = encode_example({"input_ids": [1, 300]})
    for cut in range(1, len(data)):
        with pytest.raises(BadExample):
            decode_example(data[:cut])
    for wrong in (b"\x0b", b"\x02\x00", b"\xff" * 12, b"\x0a\xff"):
        with pytest.raises(BadExample):
            decode_example(wrong)
