"""The study: every setting that changes numbers, validated before any job exists.

A study is one YAML file. `load_study` turns it into a frozen `Study` or raises `SpecError` naming the key, what was
found and what would do. No torch here: every cluster job parses the Snakefile, and so this file, again.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mixar.study import choices, presets
from mixar.study import paths as study_paths
from mixar.study.problems import MAX_SHARDS, SpecError, check_label, check_number, explain, not_json, problems
from mixar.study.strict_yaml import read_yaml

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]  # a size beyond that is a slip, and no tensor has its square
Side = Annotated[int, Field(ge=1, le=100)]  # images beside each other on a sheet; more show nothing
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a folder name, a Snakemake wildcard and a column of int64
# A folder name and a Snakemake wildcard.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=100)]
Label = Annotated[str, AfterValidator(check_label)]  # as tables and figures print it
Strategy = Annotated[str, AfterValidator(choices.STRATEGIES.check), choices.STRATEGIES]
Schedule = Annotated[str, AfterValidator(choices.SCHEDULES.check), choices.SCHEDULES]
Optimizer = Annotated[str, AfterValidator(choices.OPTIMIZERS.check), choices.OPTIMIZERS]
Source = Annotated[str, AfterValidator(choices.SOURCES.check), choices.SOURCES]
FeatureNetwork = Annotated[str, AfterValidator(choices.EXTRACTORS.check), choices.EXTRACTORS]
ContinuousNetwork = Annotated[str, AfterValidator(choices.CONTINUOUS.check), choices.CONTINUOUS]
DiscreteNetwork = Annotated[str, AfterValidator(choices.DISCRETE.check), choices.DISCRETE]
Metric = Annotated[str, AfterValidator(choices.check_metric), choices.METRICS]
# Of a file or folder, or asset:NAME. `~` and variables are filled in where the study is read.
FilePath = Annotated[str, AfterValidator(study_paths.parse), PlainSerializer(study_paths.dump)]
FilePattern = Annotated[str, AfterValidator(study_paths.parse_pattern), PlainSerializer(study_paths.dump)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of the study: unknown keys are errors, values never change after validation.

    `preset: NAME` stands for the keys of `mixar.study.presets`. Later keys are left out of dumps at their defaults
    (`exclude_if`), so that earlier studies keep their digests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, content: Any) -> Any:
        return presets.fill(cls.__name__, content)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        check_number(value, cls.model_fields[info.field_name].annotation)
        return value


class Data(Section):
    """Images, their crop and the split."""

    source: Source
    path: FilePath  # emoji: the Parquet file; folder: a folder of class folders; parquet: a file, a folder or a pattern
    held_out_path: FilePath | None = None  # validation images, same kind; null: split by a hash of each image's name
    held_out_rate: Annotated[float, Field(gt=0, lt=1)] = 0.2  # share held out, used where held_out_path is null
    image_size: Annotated[Count, Field(le=2**14)]  # pixels, square
    num_classes: Count
    num_shards: Annotated[Count, Field(le=MAX_SHARDS)] = 1  # token shards, one job each
    limit: Count | None = None  # keep this many images, all classes alike (smoke studies)
    skip_unreadable: Annotated[bool, Field(exclude_if=lambda v: not v)] = False  # leave unreadable images out
    max_overlap: Annotated[Rate, Field(exclude_if=lambda v: not v)] = 0.0  # of the held-out images, also trained on


class Training(Section):
    """Optimisation of any network of the study."""

    epochs: Count
    batch_size: Count  # images per step over all devices
    learning_rate: Positive  # per 256 images: the step uses learning_rate * batch_size / 256
    schedule: Literal["constant", "cosine"] = "constant"
    final_rate: Rate = 0.0  # cosine: the share of the learning rate left at the end
    warmup_epochs: Annotated[float, Field(ge=0, le=10**9)] = 0.0
    optimizer: Annotated[Optimizer, Field(exclude_if=lambda v: v == "adamw")] = "adamw"
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    clip_norm: Positive = 3.0
    ema_decay: Rate = 0.9999
    precision: Literal["float32", "bfloat16"] = "float32"  # autocast; weights and optimizer stay in float32
    micro_batch: Count | None = None  # images per forward pass and device, each part with draws of its own; null: all


class TokenizerTraining(Training):
    """Losses of the small tokenizers: squared and absolute reconstruction error, and each family's own terms."""

    kl_weight: float = 1.0e-6  # VA-VAE: KL divergence, summed over a latent map and averaged over images
    l1_weight: float = 0.0  # absolute pixel error beside the squared one
    commitment_weight: float = 0.25  # MaskBit (spec: ConvVQModel, commitment cost)
    entropy_weight: float = 0.02  # MaskBit entropy term
    entropy_temperature: Positive = 0.01
    entropy_gamma: float = 1.0  # weight of the batch entropy against the mean per-sample entropy
    entropy_groups: Annotated[Count, Field(exclude_if=lambda v: v == 1)] = 1  # of the bits; their entropies add up
    max_shift: Annotated[int | None, Field(ge=0, exclude_if=lambda v: v is None)] = None  # pixels; null: an eighth


class Autoencoder(Section):
    """Encoder and decoder of images; the grid is image_size / 2**(levels - 1)."""

    network: str
    options: dict[str, Any] = {}  # for the constructor of a network of the study's own
    weights: FilePath | None = None  # path, or asset:NAME; null: trained by this study
    channels: Count = 128
    multipliers: Widths = (1, 1, 2, 2, 4)
    num_res_blocks: Count = 2
    train: TokenizerTraining | None = None

    @property
    def stride(self) -> int:
        """Pixels per token side."""
        return 2 ** (len(self.multipliers) - 1)

    @model_serializer(mode="wrap")
    def _built_in_left_out(self, dump: Any) -> dict:  # so studies of the built-in networks keep their digests
        return {k: v for k, v in dump(self).items() if choices.is_own(self.network) or k not in ("network", "options")}


class VaVae(Autoencoder):
    """Continuous tokenizer (VA-VAE f16d32 by default; MAR's KL-16 is latent_channels 16 without decoder attention)."""

    network: ContinuousNetwork = "vavae"
    latent_channels: Count = 32
    attention_levels: tuple[Annotated[int, Field(ge=0)], ...] = (4,)
    decoder_attention: bool = True
    statistics: FilePath | None = None  # file with the latents' mean and std; null: computed from the training images
    scale: Positive | None = None  # one factor instead of statistics (KL-16: 0.2325)


class MaskBit(Autoencoder):
    """Discrete tokenizer: lookup-free quantisation to `bits` bits a token."""

    network: DiscreteNetwork = "maskbit"
    bits: Annotated[int, Field(ge=2, le=20)] = 14


class GeneratorTraining(Training):
    """MaskBit stage-two training."""

    label_drop_rate: Rate = 0.1
    label_smoothing: Rate = 0.1


class GeneratorSampler(Section):
    """How MaskBit draws the evaluation tokens."""

    num_steps: Count = 128
    guidance_scale: float = 7.1
    guidance_annealing: Literal["none", "linear", "cosine"] = "cosine"
    scale_pow: Annotated[float, Field(ge=0)] = 3.0
    randomize_temperature: Annotated[float, Field(ge=0)] = 9.0
    softmax_temperature: Positive = 1.0
    mask_schedule: Literal["arccos", "cosine", "linear", "square", "root"] = "arccos"


class Generator(Section):
    """MaskBit's bit transformer (LFQBert)."""

    weights: FilePath | None = None
    width: Count = 1024
    depth: Count = 24
    heads: Count = 16
    mlp_width: Count = 4096
    splits: Count = 2
    dropout: Rate = 0.1
    train: GeneratorTraining | None = None
    sampler: GeneratorSampler = GeneratorSampler()


class Model(Section):
    """Size of the masked autoregressive transformer and its diffusion head."""

    width: Count
    encoder_depth: Count
    decoder_depth: Count
    heads: Count
    decoder_width: Count | None = None  # null: as the encoder
    decoder_heads: Count | None = None  # null: as the encoder
    mlp_ratio: Annotated[Positive, Field(le=1000)] = 4.0
    buffer_size: Count = 64  # class tokens
    dropout: Rate = 0.1  # attention and projection
    head_depth: Count
    head_width: Count

    @model_serializer(mode="wrap")
    def _null_left_out(self, dump: Any) -> dict:  # so models with equal halves keep the digests that they had
        return {key: value for key, value in dump(self).items() if value is not None}


class MarTraining(Training):
    """MAR's recipe on top of the shared optimisation."""

    mask_rate_min: Rate = 0.7
    label_drop_rate: Rate = 0.1
    head_batch_multiplier: Count = 4


class Guidance(Section):
    """Which strategy injects the discrete tokens; `options` go to its constructor."""

    strategy: Strategy = "none"
    options: dict[str, Any] = {}


class TiMix(Section):
    """λ, the rate of ground-truth guidance, over a run (Eq. 12)."""

    schedule: Schedule = "linear"
    start: Rate = 1.0
    end: Rate = 0.0
    step_at: Rate = 0.5  # schedule `step`: share of the run after which λ jumps to `end`
    temperature: Positive = 1.0  # of the generator's softmax


class Run(Section):
    """One trained method."""

    label: Label
    model: Name
    guidance: Guidance = Guidance()
    ti_mix: TiMix | None = None
    parent: Name | None = None  # continue this run's final weights, seed by seed
    start: FilePattern | None = None  # continue weights from a file; {seed} is filled in
    weights: FilePattern | None = None  # finished weights from a file: nothing is trained; {seed} is filled in
    start_epochs: Annotated[int, Field(ge=0, le=10**9)] = 0  # epochs behind `start` or `weights`, for the record
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    samplers: Annotated[tuple[Name, ...], Field(min_length=1)] = ("default",)
    training: dict[str, Any] = {}  # keys of the study's `training` that differ for this run


class Sampler(Section):
    """How images are drawn from a trained run (spec of MAR's loop)."""

    num_iterations: Count = 64
    head_steps: Annotated[int, Field(ge=2, le=1000)] = 100
    cfg: Annotated[float, Field(ge=0)] = 3.0
    cfg_schedule: Literal["linear", "constant"] = "linear"
    temperature: Annotated[float, Field(ge=0)] = 1.0
    clip: Positive | None = None  # bound on predicted latents, in their std; null: none, as in MAR


class Evaluation(Section):
    """The images that every method draws."""

    num_images: Annotated[Count, Field(le=10**8)] = 50_000
    labels: Literal["balanced", "training"] = "balanced"  # equal counts, or the training set's proportions
    shard_size: Count = 1000  # images per job
    batch_size: Count = 256  # images per forward pass; part of the numbers: noise is drawn per batch
    seed: Seed = 0

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)


class ExtractorTraining(Training):
    """Training of the small feature network."""

    label_smoothing: Rate = 0.1


class Extractor(Section):
    """Feature network behind every score."""

    network: FeatureNetwork
    options: Annotated[dict[str, Any], Field(exclude_if=lambda v: not v)] = {}  # for the constructor of your own
    weights: FilePath | None = None
    channels: Count = 32  # subgroup-cnn: width of its first stage; features are 4 times that
    train: ExtractorTraining | None = None


class Scoring(Section):
    """Metrics and the protocol that names them."""

    protocol: str
    reconstructions: str | None = None  # protocol of the reconstructions; null: the one that goes with `protocol`
    extractor: Extractor
    metrics: tuple[Metric, ...] = ("fd", "is", "kid", "precision", "recall")
    further: dict[str, FilePath] = {}  # weights of more feature networks by name; each brings metrics of its own
    further_statistics: dict[str, FilePath] = {}  # .npz files of statistics, in place of reference images
    kid_subsets: Count = 100
    kid_subset_size: Count = 1000
    is_splits: Count = 10
    neighbours: Count = 3  # k of precision and recall
    jackknife_groups: Annotated[Count, Field(ge=2)] = 10

    @property
    def own_metrics(self) -> dict[str, str]:
        """The "module:function" of each metric of the study's own, by the metric's name in result rows."""
        return {choices.metric_name(entry): entry for entry in self.metrics if choices.is_own(entry)}

    @property
    def metric_names(self) -> list[str]:
        """Every metric's name in result rows."""
        return [choices.metric_name(entry) for entry in self.metrics]

    @field_validator("metrics")
    @classmethod
    def _one_name_each(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        names = [choices.metric_name(entry) for entry in metrics]
        for place, name in enumerate(names):
            if name in names[:place]:
                other, entry = metrics[names.index(name)], metrics[place]
                what = (
                    f"{entry!r} occurs twice" if other == entry else f"{other!r} and {entry!r} are both named {name!r}"
                )
                raise PydanticCustomError("choice", f"{what}; keep one")
        return metrics


class Measure(Section):
    """What `measure` times."""

    batch_size: Count = 256
    train_steps: Count = 10
    repeats: Count = 3


class TiMixFigure(Section):
    """Figure 8: one parent, continued with and without TI-Mix."""

    parent: Name
    plain: Name
    ti_mix: Name


class Claims(Section):
    """Which runs stand for the two sides of the paper's claims."""

    baseline: Name  # MAR
    guided: Name  # DC-Mix
    self_attention: Name | None = None  # DC-SA
    final: Name | None = None  # MixAR: the best run against MaskBit's own images; null: the guided one


class Report(Section):
    """Which runs appear where."""

    table2: tuple[Name, ...] | None = None  # null: every run that continues no other
    figure7: tuple[Name, ...] | None = None  # likewise
    figure8: TiMixFigure | None = None
    claims: Claims | None = None
    grid: tuple[Side, Side] = (4, 8)  # rows and columns of the sample grids
    sampler: Name = "default"  # the sampler behind the headline tables


class Hardware(Section):
    """How the study runs here, left out of every digest: no value changes what is computed.

    (The number of processes of a training changes which random numbers each image meets, not their distribution.)
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_minutes: Annotated[Positive, Field(le=10**9)] = 10.0
    gpus: Annotated[int, Field(ge=0, le=10**6)] = 0  # per training job, over all nodes; 0: CPU
    nodes: Count = 1
    results: FilePath = "results"

    @property
    def processes(self) -> int:
        """Of one training: one for each GPU, or for each node without GPUs."""
        return max(self.gpus, self.nodes)


class Study(Section):
    """A whole study."""

    study: Name
    title: Label
    data: Data
    continuous: VaVae
    discrete: MaskBit
    generator: Generator
    models: dict[Name, Model]
    training: MarTraining
    samplers: dict[Name, Sampler]
    runs: dict[Name, Run]
    evaluation: Evaluation
    scoring: Scoring
    measure: Measure = Measure()
    report: Report = Report()
    hardware: Hardware = Hardware()

    @property
    def grid(self) -> int:
        """Tokens per image side."""
        return self.data.image_size // self.continuous.stride

    @property
    def num_tokens(self) -> int:
        return self.grid**2

    def shown(self, listed: tuple[str, ...] | None) -> list[str]:
        """Runs of a table or figure: those listed, else every run that continues no other."""
        return list(listed or (name for name, run in self.runs.items() if not run.parent))

    def training_of(self, run: str) -> MarTraining:
        """The study's training with this run's differences applied."""
        return MarTraining.model_validate({**self.training.model_dump(), **self.runs[run].training})

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for problem in problems(self):
            raise ValueError(problem)
        return self


def parse_study(content: dict, source: str = "study") -> Study:
    """A validated study from a mapping, or SpecError listing every problem found."""
    if not isinstance(content, dict):
        raise SpecError(f"{source}: expected a mapping of settings, found {type(content).__name__}")
    if lines := list(not_json(content)):
        raise SpecError("\n".join([f"{source}:", *lines]))
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{source}:\n{explain(error, Study)}") from None


def load_study(*paths: str | Path) -> Study:
    """The study in a YAML or JSON file, or in several laid over each other as Snakemake lays them. Raises SpecError."""
    contents = [read_layer(path) for path in paths]
    return parse_study(functools.reduce(laid_over, contents), ", ".join(map(str, paths)))


def read_layer(path: str | Path) -> dict:
    """The content of one file of a study. Raises SpecError where it is no mapping, or has a key twice."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such study file") from None
    except (ValueError, OSError) as error:
        raise SpecError(str(error)) from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def laid_over(content: dict, layer: dict) -> dict:
    """`content` with the keys of `layer` put over it, section by section, as Snakemake merges its configuration."""
    merged = dict(content)
    for key, value in layer.items():
        below = merged.get(key)
        if isinstance(value, dict):
            merged[key] = laid_over(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged
