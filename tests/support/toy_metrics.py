"""User-defined metrics, which a study names as toy_metrics:mean_shift."""


def mean_shift(sample, reference, scoring):
    """Distance between the mean features, as a tensor: the caller converts it to a number."""
    return (sample.features.mean(0) - reference.features.mean(0)).norm()


def in_place(sample, reference, scoring):
    """An easy mistake: it normalises in place, so later metrics get changed features."""
    for features in (sample.features, reference.features):
        features /= features.norm(dim=1, keepdim=True)
    return (sample.features.mean(0) - reference.features.mean(0)).norm()
