"""Replays of VA-VAE: encoder, posterior, decoder, normalisation, crop and pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from replay import EXACT, Check, Stored

from mixar import released
from mixar.data.images import centre_crop, images_to_unit, unit_to_uint8
from mixar.tokens import vavae
from mixar.tokens.latents import denormalise, normalise


def build(stored: Stored) -> vavae.VaVae:
    ae, weights = stored.config["ae"], stored.weights("sd/")
    levels = [i for i in range(len(ae["ch_mult"])) if ae["resolution"] // 2**i in ae["attn_resolutions"]]
    return released.load(
        "vavae",
        weights,
        channels=ae["ch"],
        multipliers=tuple(ae["ch_mult"]),
        num_res_blocks=ae["num_res_blocks"],
        latent_channels=ae["embed_dim"],
        attention_levels=tuple(levels),
        decoder_attention=any(key.startswith("decoder.up.") and ".attn." in key for key in weights) or not levels,
    ).requires_grad_(False)


def encoding(stored: Stored) -> Iterator[Check]:
    model, images = build(stored), stored["encode/in/image"]
    mean, logvar = model.encode(images)
    yield Check("encode/out/moments", model.quant_conv(model.encoder(images)))
    yield Check("encode/out/mean", mean)
    yield Check("encode/out/logvar", logvar)
    yield Check("encode/out/std", vavae.sample_posterior(torch.zeros_like(mean), logvar, torch.ones_like(mean)))
    yield Check("encode/out/sample", vavae.sample_posterior(mean, logvar, stored["encode/draw/noise"]))
    yield Check("encode/out/kl", vavae.kl_divergence(mean, logvar))


def decoding(stored: Stored) -> Iterator[Check]:
    yield Check("decode/out/image", build(stored).decode(stored["decode/in/z"]))
    # From the stored image, in double precision: a level apart is a matter of the last bit.
    unit = (stored["decode/out/image"].double() + 1) / 2
    yield Check("decode/out/uint8_nhwc", unit_to_uint8(unit, "half-up"), EXACT)


def normalisation(stored: Stored) -> Iterator[Check]:
    """On tokens [B, L, C]. The release's further factor divides the standard deviation; it is 1 in all its settings."""
    mean, std = (stored[f"norm/in/{name}"].flatten() for name in ("mean", "std"))
    std = std / stored["norm/in/multiplier"]
    z = stored["encode/out/sample"]
    x = normalise(z.movedim(1, -1), mean, std)
    yield Check("norm/out/normalised", x.movedim(-1, 1))
    again = denormalise(stored["norm/out/normalised"].movedim(1, -1), mean, std)
    yield Check("norm/out/denormalised", again.movedim(-1, 1))


def crops(stored: Stored) -> Iterator[Check]:
    for case in sorted({key.split("/")[0] for key in stored.keys("crop")}):
        image = Image.fromarray(stored[f"{case}/in/image_hwc"].numpy())
        cropped = centre_crop(image, int(stored[f"{case}/in/size"]))
        yield Check(f"{case}/out/cropped_hwc", torch.from_numpy(cropped), EXACT)
        yield Check(f"{case}/out/tensor", images_to_unit(cropped[None])[0] * 2 - 1)


VAVAE_REPLAYS = [encoding, decoding, normalisation, crops]
