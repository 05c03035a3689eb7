from collections.abc import Sequence

import pytest
import torch

from ds_bert.engine.process_group import start_process_group
from ds_bert.engine.transport import Transport, message_layout, pack, unpack
from ds_bert.modeling.model import BatchShape, Field, encoder_carry
from tests.support.processes import run_on_ranks
from tests.support.toy import toy_map

FIELDS = [
    Field("hidden", (2, 3, 5), torch.bfloat16, True),  # 60 bytes
    Field("mask", (2, 3), torch.bool, False),  # 6 bytes
    Field("scalar", (), torch.float64, False),  # 8 bytes
    Field("nothing", (0, 4), torch.float32, False),
    Field("lengths", (3,), torch.int32, False),  # 12 bytes
]


def _tensors(fields: Sequence[Field]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 100, field.shape, generator=generator).to(field.dtype) for field in fields]


def test_layout_is_aligned_and_without_overlap() -> None:
    assert message_layout(FIELDS) == ([(0, 60), (64, 70), (80, 88), (96, 96), (96, 108)], 112)
    assert message_layout([]) == ([], 0)


@pytest.mark.parametrize("fields", [FIELDS, FIELDS[:1], FIELDS[1:3]])
def test_unpack_undoes_pack(fields: list[Field]) -> None:
    tensors = _tensors(fields)
    for found, field, tensor in zip(unpack(fields, pack(fields, tensors)), fields, tensors, strict=True):
        assert found.dtype == field.dtype and found.shape == field.shape
        assert torch.equal(found, tensor)


def test_pack_takes_tensors_that_are_not_contiguous() -> None:
    fields = [Field("hidden", (3, 2), torch.float32, True)]
    tensor = torch.arange(6.0).view(2, 3).t()
    message = pack(fields, [tensor])
    assert message.numel() == 24 and torch.equal(unpack(fields, message)[0], tensor)


def test_a_single_tensor_is_not_copied() -> None:
    tensor = torch.ones(4, 4, requires_grad=True)
    message = pack([Field("hidden", (4, 4), torch.float32, True)], [tensor])
    assert message.data_ptr() == tensor.data_ptr() and not message.requires_grad


def test_carry_has_a_mask_only_where_rows_are_padded() -> None:
    padded = encoder_carry(8, torch.bfloat16, BatchShape(2, 3, True))
    assert padded == [
        Field("hidden", (2, 3, 8), torch.bfloat16, True),
        Field("attention_mask", (2, 3), torch.bool, False),
    ]
    assert encoder_carry(8, torch.bfloat16, BatchShape(2, 3, False)) == padded[:1]


def _relay() -> list[torch.Tensor]:
    """Messages of different layouts go down a pipeline of three; the first rank sends, the others pass on."""
    grid = start_process_group(toy_map(3, 1), timeout_seconds=30)
    transport = Transport(grid)
    received = []
    for fields in (FIELDS, FIELDS[:1], FIELDS[2:]):
        tensors = _tensors(fields)
        if transport.activations_in:
            transport.activations_in.post_receive(fields)
            tensors = transport.activations_in.receive()
        if transport.activations_out:
            transport.activations_out.send(fields, tensors)
        received += [tensor.double().numpy() for tensor in tensors]
    transport.flush()
    return received


def test_messages_arrive_whole_and_in_order() -> None:
    expected = [tensor.double().numpy() for fields in (FIELDS, FIELDS[:1], FIELDS[2:]) for tensor in _tensors(fields)]
    for received in run_on_ranks(_relay, 3):
        assert all((found == tensor).all() for found, tensor in zip(received, expected, strict=True))
