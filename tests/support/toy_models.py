"""Small models and studies for the tests of mixar/model."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mixar.model.guidance import DCCrossAttention, DCMix, DCSelfAttention, Unguided
from mixar.model.mar import MAR
from mixar.study.load import parse_study
from mixar.study.sections import Model

STRATEGIES = {"none": Unguided, "dc_mix": DCMix, "dc_sa": DCSelfAttention, "dc_ca": DCCrossAttention}
EVERY_VARIANT = [  # strategies with their options
    ("none", {}),
    ("dc_mix", {}),
    ("dc_mix", {"drop_tokens_in_null": True}),
    ("dc_sa", {}),
    ("dc_sa", {"stage": "encoder"}),
    ("dc_sa", {"stage": "both"}),
    ("dc_sa", {"drop_tokens_in_null": True}),
    ("dc_ca", {}),
    ("dc_ca", {"drop_tokens_in_null": True}),
]
BITS, LENGTH, CHANNELS, CLASSES = 5, 16, 3, 4
SMALL = Model(
    width=32, encoder_depth=2, decoder_depth=2, heads=4, buffer_size=3, dropout=0.0, head_depth=2, head_width=32
)


def toy_mar(strategy="none", seed=0, model=SMALL, **options):
    """A small MAR in evaluation mode."""
    torch.manual_seed(seed)
    guidance = STRATEGIES[strategy](model.width, LENGTH, BITS, **options)
    return MAR(model, guidance, LENGTH, CHANNELS, CLASSES).eval()


def randomise(model, seed=1):
    """`model` with every parameter drawn afresh, so that nothing that starts at zero hides a path."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) * 0.1
    return model


def toy_pair(strategy, **options):
    """An unguided MAR and a guided one that share every weight they both have."""
    plain = randomise(toy_mar("none"))
    guided = randomise(toy_mar(strategy, **options))
    shared = {k: v for k, v in plain.state_dict().items() if k in guided.state_dict()}
    guided.load_state_dict(shared, strict=False)
    return plain, guided


def toy_batch(size=2, num_masked=11, seed=2):
    """Arguments x, q, m, c, drop of MAR.condition; the last image has no class."""
    rng = torch.Generator().manual_seed(seed)
    orders = torch.rand(size, LENGTH, generator=rng).argsort(1)
    return {
        "x": torch.randn(size, LENGTH, CHANNELS, generator=rng),
        "q": torch.randint(2**BITS, (size, LENGTH), generator=rng),
        "m": torch.zeros(size, LENGTH, dtype=torch.bool).scatter_(1, orders[:, :num_masked], True),
        "c": torch.randint(CLASSES, (size,), generator=rng),
        "drop": torch.arange(size) == size - 1,
    }


def toy_study(model=None, **changes):
    """A study whose every run is a strategy of the same small model. changes replace whole sections."""
    autoencoder = {"channels": 32, "multipliers": [1, 1], "num_res_blocks": 1, "weights": "none.safetensors"}
    content = {
        "study": "toy",
        "title": "Toy",
        "data": {"source": "folder", "path": "images", "image_size": 8, "num_classes": CLASSES},
        "continuous": {**autoencoder, "latent_channels": CHANNELS, "attention_levels": [1]},
        "discrete": {**autoencoder, "bits": 4},
        "generator": {"weights": "none.safetensors"},
        "models": {"small": model or SMALL.model_dump()},
        "training": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4},
        "samplers": {"default": {"num_iterations": 5, "head_steps": 4}},
        "runs": {name: {"label": name, "model": "small", "guidance": {"strategy": name}} for name in STRATEGIES},
        "evaluation": {"num_images": 4, "batch_size": 2},
        "scoring": {
            "protocol": "emoji-gfd",
            "metrics": [],
            "extractor": {"network": "subgroup-cnn", "weights": "none.safetensors"},
        },
    }
    return parse_study({**content, **changes})


def assert_near(found, expected, tolerance=1e-5):
    """The largest error against the largest expected value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


UNEQUAL = {"decoder_width": 48, "decoder_heads": 6, "mlp_ratio": 3.0}  # a decoder of another size than the encoder


def variant_study(strategy, options, model=None, **training):
    run = {"label": "run", "model": "small", "guidance": {"strategy": strategy, "options": options}}
    recipe = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-4, "mask_rate_min": 1.0, **training}
    return toy_study(model={**SMALL.model_dump(), **(model or {})}, runs={"run": run}, training=recipe)


SIZED_VARIANTS = [(*variant, None) for variant in EVERY_VARIANT]
SIZED_VARIANTS += [(name, {}, UNEQUAL) for name in ("none", "dc_mix", "dc_sa")]


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
