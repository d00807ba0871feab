"""Layers: rows in and out of a sequence, cross-attention to a memory, initial weights."""

from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block as VisionBlock
from torch import nn

from mixar.model.layers import (
    Block,
    CrossAttention,
    Memory,
    initialise,
    learned,
    normalised,
    put,
    recomputed,
    take,
    wide,
    width_and_heads,
)
from mixar.study.sections import Model

SIZES = Model(width=8, encoder_depth=1, decoder_depth=1, heads=2, head_depth=1, head_width=8)


def test_put_is_the_inverse_of_take():
    h, rows = torch.randn(2, 5, 3), torch.tensor([[4, 0], [1, 3]])
    assert torch.equal(take(h, rows), torch.stack([h[0, [4, 0]], h[1, [1, 3]]]))
    assert torch.equal(put(h, rows, take(h, rows)), h)
    assert torch.equal(take(put(h, rows, torch.ones(2, 2, 3)), rows), torch.ones(2, 2, 3))


def test_a_halfs_width_and_heads_are_the_encoders_unless_the_decoder_has_its_own():
    other = SIZES.model_copy(update={"decoder_width": 12, "decoder_heads": 3})

    assert width_and_heads(SIZES, "encoder") == width_and_heads(SIZES, "decoder") == (8, 2)
    assert (width_and_heads(other, "encoder"), width_and_heads(other, "decoder")) == ((8, 2), (12, 3))


def test_a_block_at_some_rows_gives_the_values_of_a_whole_one_there():
    torch.manual_seed(0)
    block, h, rows = Block(SIZES, "encoder").eval(), torch.randn(2, 6, 8), torch.tensor([[5, 0], [2, 3]])

    torch.testing.assert_close(block(h, rows), take(block(h), rows))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_block_is_timms_with_mars_settings_bit_for_bit(is_training):
    sizes, norm = SIZES.model_copy(update={"dropout": 0.1}), partial(nn.LayerNorm, eps=1e-6)
    torch.manual_seed(0)
    ours, h = Block(sizes, "encoder").train(is_training), torch.randn(2, 6, 8)
    timms = VisionBlock(8, 2, qkv_bias=True, proj_drop=0.1, attn_drop=0.1, norm_layer=norm).train(is_training)
    timms.load_state_dict(ours.state_dict())  # also the same names

    found = []
    for block in (ours, timms):
        torch.manual_seed(1)
        block(h).square().sum().backward()
        found.append([parameter.grad for parameter in block.parameters()])

    assert all(map(torch.equal, *found))


def test_a_block_starts_from_timms_random_numbers():
    torch.manual_seed(0)
    ours = Block(SIZES, "encoder")
    torch.manual_seed(0)
    timms = initialise(VisionBlock(8, 2, qkv_bias=True))

    assert all(map(torch.equal, ours.state_dict().values(), timms.state_dict().values()))


def test_linear_layers_start_without_bias_and_tables_small():
    torch.manual_seed(0)
    module = initialise(nn.ModuleDict({"linear": nn.Linear(300, 100), "table": nn.Embedding(300, 100)}))
    bound = (6 / 400) ** 0.5  # Glorot and Bengio (2010)

    weight = module["linear"].weight.detach()
    assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert module["linear"].bias.abs().max() == 0
    for table in (module["table"].weight, learned(300, 100)):
        assert table.detach().std() == pytest.approx(0.02, rel=0.02)


def test_cross_attention_does_not_depend_on_the_order_of_its_memory_and_serves_several_branches():
    torch.manual_seed(0)
    attention, h, tokens = CrossAttention(8, 2, 0.1).eval(), torch.randn(4, 3, 8), torch.randn(2, 5, 8)

    both = attention(h, Memory(tokens))

    torch.testing.assert_close(attention(h, Memory(tokens.flip(1))), both)
    torch.testing.assert_close(attention(h[2:], Memory(tokens)), both[2:])


def test_a_memorys_keys_are_kept_while_drawing_and_computed_again_in_training():
    attention, memory = CrossAttention(8, 2, 0.0), Memory(torch.randn(1, 5, 8))

    with torch.no_grad():
        first, second = memory.keys_and_values(attention), memory.keys_and_values(attention)
    third = memory.keys_and_values(attention)

    assert first is second and third is not first and third[0].requires_grad
    assert first[0].shape == (1, 2, 5, 4)


def test_a_vector_is_normalised_without_parameters():
    h = 3 + 2 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(normalised(h), nn.LayerNorm(64, eps=1e-6)(h))
    torch.testing.assert_close(normalised(5 * h + 7), normalised(h))


def test_recomputed_values_have_the_gradients_of_kept_ones_and_run_twice():
    x, calls = torch.randn(3, requires_grad=True), []

    def cube(value):
        calls.append(1)
        return value**3

    recomputed(cube, x).sum().backward()

    assert len(calls) == 2 and torch.equal(x.grad, 3 * x.detach() ** 2)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_narrow_numbers_are_widened_and_wide_ones_stay(dtype, kept):
    assert wide(torch.ones(1, dtype=dtype)).dtype == kept
