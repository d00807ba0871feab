"""The table of GPUs."""

from mixar.study.cards import CARDS
from mixar.study.load import parse_study


def test_every_card_of_the_table_is_a_choice_and_computes_faster_in_bfloat16(smoke):
    for name, card in CARDS.items():
        smoke["hardware"]["card"] = name

        assert parse_study(smoke).hardware.card == name
        assert card.bf16_tflops > card.float32_tflops
