"""The table of GPUs."""

import pytest

from mixar.study.cards import CARDS, card_of
from mixar.study.load import parse_study


def test_every_card_of_the_table_is_a_choice_and_computes_faster_in_bfloat16(smoke):
    for name, card in CARDS.items():
        smoke["hardware"]["card"] = name

        assert parse_study(smoke).hardware.card == name
        assert card.bf16_tflops > card.float32_tflops


@pytest.mark.parametrize(
    ("name", "memory", "card"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80gb"),
        ("NVIDIA H100 PCIe", 79.1, "h100-pcie"),
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA A100-SXM4-80GB", 79.3, "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090"),
        ("NVIDIA RTX A6000", 47.5, "a6000"),
        ("NVIDIA H100 NVL", 93.6, None),
        ("Some card", 79.1, None),
    ],
)
def test_a_card_is_known_by_its_own_name_and_memory(name, memory, card):
    assert card_of(name, memory) == card
