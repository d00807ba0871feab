"""The smallest possible user-defined tokenizers; a study names them as toy_tokenizers:Patches and :Shades."""

import torch
import torch.nn.functional as F
from torch import nn


class Patches(nn.Module):
    """Continuous: one linear map of each patch; the posterior is almost a point."""

    def __init__(self, settings, noise=1e-4):
        super().__init__()
        size, width = settings.stride, settings.latent_channels
        self.noise = noise
        self.down = nn.Conv2d(3, width, size, stride=size)
        self.up = nn.ConvTranspose2d(width, 3, size, stride=size)

    def encode(self, images):
        mean = self.down(images)
        return mean, torch.full_like(mean, 2 * torch.tensor(self.noise).log().item())

    def decode(self, z):
        return self.up(z)

    def training_loss(self, images, settings, rng):
        return {"loss": (self.decode(self.encode(2 * images - 1)[0]) - (2 * images - 1)).square().mean()}


class Darker(nn.Module):
    """Continuous: latents are the pixels, and decoding darkens them."""

    def __init__(self, settings):
        super().__init__()
        self.register_buffer("share", torch.tensor(0.9037))  # no pixel value times it is half of an odd number

    def encode(self, images):
        return images, torch.full_like(images, -60.0)

    def decode(self, z):
        return z * self.share + (self.share - 1)


class Tied(Patches):
    """Patches whose decoder shares the encoder's weights, which are not contiguous in memory."""

    def __init__(self, settings):
        super().__init__(settings)
        self.down.weight = nn.Parameter(self.down.weight.detach().transpose(2, 3))
        self.up.weight = self.down.weight


class Shades(nn.Module):
    """Discrete: the mean brightness of each patch, in 2**bits shades that a learned curve gives back."""

    def __init__(self, settings):
        super().__init__()
        self.size, self.count = settings.stride, 2**settings.bits
        self.shade = nn.Parameter(torch.linspace(0, 1, self.count))

    def tokens(self, images):
        level = F.avg_pool2d(images.mean(1, keepdim=True), self.size).flatten(1)
        return (level * self.count).long().clamp(0, self.count - 1)

    def decode_tokens(self, q):
        side = round(q.shape[1] ** 0.5)
        level = self.shade[q].clamp(0, 1).view(len(q), 1, side, side)
        return F.interpolate(level, scale_factor=self.size).expand(-1, 3, -1, -1)

    def training_loss(self, images, settings, rng):
        return {"loss": (self.decode_tokens(self.tokens(images)) - images).square().mean()}


class TooMany(Shades):
    """Tokens beyond the study's bits."""

    def tokens(self, images):
        return super().tokens(images) + self.count


class TooFew(Patches):
    """Patches that are twice as large as the study says."""

    def __init__(self, settings):
        super().__init__(settings)
        width = settings.latent_channels
        self.down = nn.Conv2d(3, width, 2 * settings.stride, stride=2 * settings.stride)


class Silent(nn.Module):
    """A network that is no tokenizer."""

    def encode(self, images):
        return images, images
