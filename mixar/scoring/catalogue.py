"""One record per metric and per feature network: what computes it, what it needs, how it is printed.

Everything else asks here: the study which names are valid, scoring what to call and how many images it takes, reporting
how a column reads and which rows share one. This module imports neither torch nor anything of mixar, so the study may
import it. A metric of a study's own, "module:function", needs no record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)
ARROWS = {"up": " ↑", "down": " ↓", None: ""}
# The small networks that come with mixar, by the SHA-256 of their tensors; others are named after their study.
EMOJI_NETWORK_SHA256 = "ca3aeee175ecb38af179423fe24dfa99c8bb70b00104d0413bcc89a1c90ac898"
DRAWINGS_NETWORK_SHA256 = "c921473cf666534aacde73757b865d47ca67ee60efbd34bcdb929f74391dc6c0"
SHIPPED = {EMOJI_NETWORK_SHA256: "emoji-subgroups", DRAWINGS_NETWORK_SHA256: "drawings-styles"}


@dataclass(frozen=True)
class Minimum:
    """The images that a metric needs: as many as a setting of `scoring` says, or a fixed number.

    counted: the sets that must be so large: `sample`, `kept` (the sample without its largest jackknife group) and
    `reference`.
    """

    key: str  # of `scoring`: the setting to lower, or `metrics` where only the metric itself can be left out
    counted: tuple[Literal["sample", "kept", "reference"], ...]
    least: int | None = None  # None: the value of the setting
    spare: int = 0  # images beyond that

    def needed(self, scoring: Any) -> int:
        return (getattr(scoring, self.key) if self.least is None else self.least) + self.spare

    @property
    def advice(self) -> str:
        """What helps instead of more images."""
        return "leave the metric out" if self.key == "metrics" else f"lower {self.key}"


@dataclass(frozen=True)
class Metric:
    """A kind of row. Its defaults are those of a study's own metric: no bounds, no arrow, compared with images.

    function: "module:function", (sample, reference, scoring) -> float. jackknife: "module:function",
    (sample, reference, scoring, groups) -> [G], the value with each group left out; None: the function once a group.
    """

    name: str
    title: str = ""  # in tables; {fd}: the name of a Fréchet distance in the metric's network; empty: `name`
    function: str | None = None  # None: comes with the images
    jackknife: str | None = None
    better: Literal["up", "down"] | None = None
    bounds: Bounds = UNBOUNDED  # least and greatest value; intervals are cut to them
    decimals: int | None = None  # in tables; None: significant digits
    unit: str | None = None
    against: Literal["nothing", "statistics", "images"] = "images"  # of the reference, what it needs at least
    split: Literal["train", "held_out"] = "train"  # the reference
    needs_logits: bool = False
    minima: tuple[Minimum, ...] = ()
    source: Literal["sample", "reconstruct"] = "sample"
    network: str | None = None  # of scoring.further, which brings the metric; None: the study's own network
    checks: str | None = None  # the metric that it comes with as a check
    column: Literal["always", "measured", "never"] = "measured"  # of Table 1

    @property
    def is_listed(self) -> bool:
        """Whether `scoring.metrics` may name it; the others come with a network, a metric or reconstructions."""
        return self.function is not None and self.source == "sample" and self.network is None and self.checks is None

    @property
    def ground(self) -> tuple[str, ...]:
        """Keys of a row's hashes; the first that a row has tells what it was compared with.

        Two rows share a column only where these agree. Given statistics replace the training images, and them alone,
        in metrics that need no more than statistics.
        """
        if self.against == "nothing":
            return ()
        if self.split == "held_out":
            return ("reference_held_out",)
        statistics = f"statistics_{self.network}" if self.network else "statistics"
        return (statistics, "reference") if self.against == "statistics" else ("reference",)

    def heading(self, distance: str, is_fid: bool) -> str:
        """The title and an arrow for better. distance: what the study's own Fréchet distance is called, such as gFID.

        is_fid: whether the study's rows earn the name FID; see `Network.distance_name`.
        """
        if self.network is not None:
            distance = network_of(self.network).distance_name(is_fid)
        return (self.title or self.name).format(fd=distance) + ARROWS[self.better]


@dataclass(frozen=True)
class Network:
    """A feature network. role: the study's own (scoring.extractor.network), or one of scoring.further.

    load: "module:function", (path, settings, resize, owner) -> Extractor, of further networks (path) -> Extractor; of a
    study's own "module:Class" the class, whose weights are read from the file.
    """

    name: str
    load: str
    role: Literal["extractor", "further"] = "further"
    width: int | None = None  # features per image; None: the study's choice
    distance: str = ""  # a Fréchet distance in print; empty: FD- and the name
    fid: str | None = None  # its name under a protocol that defines FID
    statistics: tuple[str, str] = ("mu", "sigma")  # arrays of mean and covariance in a statistics file
    is_trainable: bool = False  # by the study; otherwise it needs weights

    @property
    def is_own(self) -> bool:
        """Whether a study brings it, as "module:Class"."""
        return ":" in self.name

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it brings to a study that names it in scoring.further; of a study's own, fd_ and its name."""
        if self.is_own:
            name = f"fd_{self.name.rpartition(':')[2]}"
            return (replace(_FD, name=name, title=name, network=self.name, column="measured"),)
        return tuple(metric for metric in METRICS.values() if metric.network == self.name)

    @property
    def needs_images(self) -> bool:
        """Whether statistics alone cannot replace its reference images."""
        return any(metric.against == "images" for metric in self.metrics)

    def distance_name(self, is_fid: bool) -> str:
        """A Fréchet distance of these features in print. is_fid: the protocol defines FID and nothing differs."""
        return self.fid if is_fid and self.fid else self.distance or f"FD-{self.name}"


# Metrics, in the order of Table 1's columns

_ONE_A_GROUP = Minimum("jackknife_groups", ("sample",))
_FD = Metric(
    "fd",
    title="{fd}",
    function="mixar.scoring.metrics.frechet:fd",
    jackknife="mixar.scoring.metrics.frechet:fd_jackknife",
    better="down",
    bounds=(0, math.inf),
    against="statistics",
    minima=(_ONE_A_GROUP, Minimum("jackknife_groups", ("kept",), least=2)),
    column="always",
)
_PRECISION = Metric(
    "precision",
    title="Precision",
    function="mixar.scoring.metrics.precision_recall:precision",
    jackknife="mixar.scoring.metrics.precision_recall:precision_jackknife",
    better="up",
    bounds=(0, 1),
    decimals=2,
    minima=(Minimum("neighbours", ("kept", "reference"), spare=1),),
    column="always",
)
_RECALL = replace(
    _PRECISION,
    name="recall",
    title="Recall",
    function="mixar.scoring.metrics.precision_recall:recall",
    jackknife="mixar.scoring.metrics.precision_recall:recall_jackknife",
)
_DENSITY = Metric(
    "density",
    title="Density",
    function="mixar.scoring.metrics.density_coverage:density",
    jackknife="mixar.scoring.metrics.density_coverage:density_jackknife",
    better="up",
    bounds=(0, math.inf),
    decimals=2,
    minima=(_ONE_A_GROUP, Minimum("metrics", ("reference",), least=6)),  # an image and its five neighbours
)
_COPIES = Metric(
    "copies_features",
    title="Copies",
    better="down",
    bounds=(0, 1),
    decimals=3,
    minima=(_ONE_A_GROUP,),
)
_TABLE = (
    _FD,
    Metric(
        "is",
        title="IS",
        function="mixar.scoring.metrics.inception:inception_score",
        jackknife="mixar.scoring.metrics.inception:inception_score_jackknife",
        better="up",
        bounds=(1, math.inf),
        against="nothing",
        needs_logits=True,
        minima=(Minimum("is_splits", ("kept",)),),
        column="always",
    ),
    Metric(
        "kid",
        title="KID",
        function="mixar.scoring.metrics.kid:kid",
        jackknife="mixar.scoring.metrics.kid:kid_jackknife",
        better="down",
        minima=(Minimum("kid_subset_size", ("sample", "reference")),),
        column="always",
    ),
    _PRECISION,
    _RECALL,
    replace(
        _FD,
        name="fd_infinity",
        title="{fd}∞",
        function="mixar.scoring.metrics.frechet:fd_infinity",
        jackknife="mixar.scoring.metrics.frechet:fd_infinity_jackknife",
        bounds=UNBOUNDED,  # the extrapolation may fall below zero
        minima=(_ONE_A_GROUP, Minimum("jackknife_groups", ("kept",), least=3)),  # two points of a line
        column="measured",
    ),
    _DENSITY,
    replace(
        _DENSITY,
        name="coverage",
        title="Coverage",
        function="mixar.scoring.metrics.density_coverage:coverage",
        jackknife="mixar.scoring.metrics.density_coverage:coverage_jackknife",
        bounds=(0, 1),
    ),
    replace(_FD, name="fd_dinov2", network="dinov2-vitl14", column="measured"),
    replace(_FD, name="sfid", network="inception-spatial", column="measured"),
    replace(_PRECISION, name="precision_vgg", title="Precision (VGG)", network="vgg16", column="measured"),
    replace(_RECALL, name="recall_vgg", title="Recall (VGG)", network="vgg16", column="measured"),
    _COPIES,
    replace(_COPIES, name="copies_pixels", title="Copies (pixels)"),
    # Rises where drawn images repeat training images.
    replace(_FD, name="fd_held_out", title="{fd} to held-out", split="held_out", checks="fd", column="never"),
    # Original and reconstruction leave the jackknife together.
    replace(
        _FD,
        name="rfd",
        jackknife="mixar.scoring.metrics.frechet:pairs_jackknife",
        source="reconstruct",
        column="never",
    ),
    Metric(
        "psnr",
        title="PSNR",
        better="up",
        bounds=(0, math.inf),
        unit="dB",
        against="nothing",
        source="reconstruct",
        column="never",
    ),
)
METRICS = {metric.name: metric for metric in _TABLE}
LISTED = tuple(metric.name for metric in _TABLE if metric.is_listed)  # what scoring.metrics may name

NETWORKS = {
    network.name: network
    for network in (
        Network("subgroup-cnn", "mixar.scoring.networks.subgroup_cnn:load", role="extractor", is_trainable=True),
        Network("inception-v3", "mixar.scoring.networks.inception:load", role="extractor", width=2048, fid="FID"),
        Network("dinov2-vitl14", "mixar.scoring.networks.dinov2:load", width=1024, distance="FD-DINOv2"),
        Network("vgg16", "mixar.scoring.networks.vgg16:load", width=4096, distance="FD-VGG16"),
        Network(
            "inception-spatial",
            "mixar.scoring.networks.inception:load_spatial",
            width=2023,
            distance="sFD",
            fid="sFID",
            statistics=("mu_s", "sigma_s"),  # as ADM's statistics file names them
        ),
    )
}
EXTRACTORS = tuple(network.name for network in NETWORKS.values() if network.role == "extractor")
FURTHER = tuple(network.name for network in NETWORKS.values() if network.role == "further")


def metric_of(choice: str, further: Iterable[str] = ()) -> Metric:
    """The record of a row's metric, or of an entry of scoring.metrics; for "module:function" a record made of it.

    further: names of scoring.further; a study's own networks bring metrics that are not in METRICS.
    """
    if ":" in choice:
        return Metric(choice.rpartition(":")[2], function=choice)
    brought = {metric.name: metric for name in further if ":" in name for metric in network_of(name).metrics}
    return METRICS.get(choice) or brought.get(choice) or Metric(choice)


def network_of(name: str) -> Network:
    """The record of a network, also of a study's own, "module:Class". Raises ValueError for an unknown name."""
    if ":" in name:
        return Network(name, load=name, distance=f"FD-{name.rpartition(':')[2]}")
    if name not in NETWORKS:
        raise ValueError(f"feature network {name!r} is unknown; choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]


def shortages(
    metrics: Iterable[Metric], scoring: Any, sample: int, reference: int | None = None
) -> Iterator[tuple[Metric, Minimum, int]]:
    """Yield each metric that has too few images, with what it needs and how many images it has.

    sample, reference: numbers of images; reference None: not known yet. scoring: the study's section.
    """
    kept = sample - -(-sample // scoring.jackknife_groups)
    counts = {"sample": sample, "kept": kept, "reference": math.inf if reference is None else reference}
    for metric in metrics:
        for minimum in metric.minima:
            found = min(counts[name] for name in minimum.counted)
            if found < minimum.needed(scoring):
                yield metric, minimum, int(found)
