"""The study: every setting that changes numbers, validated before any job exists.

A study is one YAML file; mixar.study.load turns it into a frozen `Study`. A section checks what it can check alone;
mixar.study.problems checks what needs several. The descriptions of the keys are the text of docs/reference/study.md.
No torch here: every cluster job parses the Snakefile, and so this file, again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from mixar.scoring.catalogue import FURTHER, network_of
from mixar.study import choices, names, presets
from mixar.study import paths as study_paths
from mixar.study.cards import CARDS, check_card
from mixar.study.choices import is_own
from mixar.study.values import check_label, check_number, conflict_error

MAX_SHARDS = 100_000  # the number of a shard has five digits
NO_WEIGHTS = "give `weights` (a file) or `train` (settings to train it); both are missing"

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]  # a size beyond that is a slip, and no tensor has its square
Side = Annotated[int, Field(ge=1, le=100)]  # images side by side on a sheet; more would be too small to see
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Epoch = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a folder name, a Snakemake wildcard and a column of int64
Name = Annotated[str, Field(pattern=rf"^{names.RUN}$", max_length=100)]
Network = Annotated[str, Field(pattern=rf"^{names.NETWORK}$", max_length=110)]  # a run, or RUN@EPOCH
Label = Annotated[str, AfterValidator(check_label)]  # as tables and figures print it
Strategy = Annotated[str, choices.STRATEGIES]
Schedule = Annotated[str, choices.SCHEDULES]
Optimizer = Annotated[str, choices.OPTIMIZERS]
Source = Annotated[str, choices.SOURCES]
FeatureNetwork = Annotated[str, choices.EXTRACTORS]
FurtherNetwork = Annotated[str, choices.FURTHER]
ContinuousNetwork = Annotated[str, choices.CONTINUOUS]
DiscreteNetwork = Annotated[str, choices.DISCRETE]
Metric = Annotated[str, AfterValidator(choices.check_metric), choices.METRICS]
# Of a file or folder, or asset:NAME. `~` and variables are filled in where the study is read.
_PATH = WithJsonSchema({"type": "string", "format": "path"})
FilePath = Annotated[str, AfterValidator(study_paths.parse), PlainSerializer(study_paths.dump), _PATH]
FilePattern = Annotated[str, AfterValidator(study_paths.parse_pattern), PlainSerializer(study_paths.dump), _PATH]
HeadSteps = Annotated[int, Field(ge=2, le=1000)]
Card = Annotated[str, AfterValidator(check_card), WithJsonSchema({"type": "string", "enum": list(CARDS)})]
Precision = Literal["float32", "bfloat16"]  # of passes; see mixar.device.autocast
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of the study: unknown keys are errors, values never change after validation.

    `preset: NAME` expands to the keys in mixar.study.presets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield keys of this section whose values do not fit together, each with what is wrong; key "": the section."""
        yield from ()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, content: Any) -> Any:
        return presets.fill(cls.__name__, content)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        check_number(value, cls.model_fields[str(info.field_name)].annotation)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(self.conflicts()):
            raise conflict_error(found)
        return self


class Data(Section):
    """Images, their crop and the split."""

    source: Source = Field(
        description="`drawings`: the committed drawings of seven designers; `emoji`: those of one; `folder`: one "
        "folder of images per class; `parquet`: columns `image.bytes` and `label`, as Hugging Face data sets; "
        "`ilsvrc`: ImageNet as it is downloaded, archives included; `webdataset`: tars of `000000.jpg` beside "
        "`000000.cls` or `.json`. Your own: see `mixar/data/sources.py`"
    )
    path: FilePath = Field(
        description="training images: the Parquet file (`drawings`, `emoji`), a folder (`folder`), a folder or an "
        "archive (`ilsvrc`), or a file, a folder or a pattern such as `data/train-*.parquet` (`parquet`, "
        "`webdataset`)"
    )
    held_out_path: FilePath | None = Field(
        default=None, description="validation images of the same kind; null: split off by a hash of each image's name"
    )
    held_out_labels: FilePath | None = Field(
        default=None,
        description="labels of flat validation images (`ilsvrc`): the devkit's folder or .tar.gz, or Kaggle's "
        "`LOC_val_solution.csv`",
    )
    held_out_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="share of the images that is split off if `held_out_path` is null"
    )
    held_out_designer: str | None = Field(
        default=None,
        description="hold out all drawings of this designer, such as `Twitter`, instead of a share (`drawings`)",
    )
    image_size: Annotated[Count, Field(le=2**14)] = Field(description="pixels, square; after ADM's centre crop")
    num_classes: Count = Field(description="number of classes")
    num_shards: Annotated[Count, Field(le=MAX_SHARDS)] = Field(
        default=1, description="token shards, one job of `tokenize` each"
    )
    limit: Count | None = Field(
        default=None, description="use only this many images, balanced over the classes; null: all"
    )
    skip_unreadable: bool = Field(
        default=False, description="leave out images that cannot be decoded; `ingest` lists them either way"
    )
    max_overlap: Rate = Field(
        default=0.0, description="share of the held-out images that may also be training images, byte for byte"
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.held_out_labels and not (self.source == "ilsvrc" or is_own(self.source)):
            yield "held_out_labels", f"source {self.source!r} reads no such labels; use `ilsvrc`, or leave them out"
        if self.held_out_designer and not (self.source == "drawings" or is_own(self.source)):
            yield "held_out_designer", f"source {self.source!r} names no designers; use `drawings`, or leave it out"
        if self.held_out_designer and self.held_out_path:
            yield "held_out_designer", "`held_out_path` says already which images are held out; keep one"


class Training(Section):
    """Optimisation of any network of the study."""

    epochs: Count = Field(description="passes over the training images")
    batch_size: Count = Field(description="images per step over all devices")
    learning_rate: Positive = Field(description="per 256 images: a step uses `learning_rate` · `batch_size` / 256")
    schedule: Literal["constant", "cosine"] = Field(default="constant", description="learning rate after the warm-up")
    final_rate: Rate = Field(default=0.0, description="`cosine`: final learning rate, as a share of `learning_rate`")
    warmup_epochs: Annotated[float, Field(ge=0, le=10**9)] = Field(
        default=0.0, description="epochs of linear warm-up from 0"
    )
    optimizer: Optimizer = Field(
        default="adamw",
        description="`muon` trains small networks in fewer steps: orthogonalised updates of matrices and kernels, "
        "AdamW for vectors. Your own: see `mixar/training/optim.py`",
    )
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.95), description="decay of the optimizer's two moving averages (MAR)"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.02, description="decay of matrices and kernels outside the diffusion head (MAR)"
    )
    clip_norm: Positive = Field(default=3.0, description="gradients are scaled down to this norm (MAR)")
    ema_decay: Rate = Field(
        default=0.9999,
        description="decay of the averaged weights, which are a training's result; with a warm-up (MAR: none)",
    )
    precision: Precision = Field(
        default="float32", description="precision of forward passes (autocast); weights and optimizer stay in float32"
    )
    micro_batch: Count | None = Field(
        default=None,
        description="images per forward pass and device; gradients add up to the whole batch, each part with draws of "
        "its own; null: all at once",
    )


class TokenizerTraining(Training):
    """Losses of the small tokenizers: squared reconstruction error, and each family's own terms."""

    kl_weight: float = Field(
        default=1.0e-6,
        description="`continuous`: weight of the KL divergence, summed over a latent map, averaged over images",
    )
    l1_weight: float = Field(default=0.0, description="`continuous`: weight of the absolute pixel error")
    commitment_weight: float = Field(default=0.25, description="`discrete`: weight of the commitment term (MaskBit)")
    entropy_weight: float = Field(default=0.02, description="`discrete`: weight of the entropy term (MaskBit)")
    entropy_temperature: Positive = Field(
        default=0.01, description="`discrete`: temperature of the entropies' softmax (MaskBit)"
    )
    entropy_gamma: float = Field(
        default=1.0, description="`discrete`: weight of the batch's entropy relative to the mean entropy of a token"
    )
    entropy_groups: Count = Field(default=1, description="`discrete`: groups of bits whose entropies are summed")
    max_shift: Annotated[int | None, Field(ge=0)] = Field(
        default=None, description="largest random shift of a training image, in pixels; null: an eighth of the side"
    )


class Autoencoder(Section):
    """Encoder and decoder of images; a token covers 2^(levels - 1) pixels a side."""

    network: str
    options: dict[str, Any] = Field(default={}, description="arguments for the constructor of your own network")
    weights: FilePath | None = Field(
        default=None, description="file of the weights; null: trained by the study, see `train`"
    )
    train: TokenizerTraining | None = Field(
        default=None, description="training of a small tokenizer; null: give `weights`"
    )
    channels: Count = Field(
        default=128, description="width of the first level; a multiple of 32 in the built-in networks"
    )
    multipliers: Widths = Field(default=(1, 1, 2, 2, 4), description="width of each level, in multiples of `channels`")
    num_res_blocks: Count = Field(default=2, description="residual blocks per level")
    precision: Precision = Field(
        default="float32",
        description="precision of tokenising and reconstructing (autocast); the latents' statistics are always float32",
    )

    @property
    def stride(self) -> int:
        """Pixels per token side."""
        return 2 ** (len(self.multipliers) - 1)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if is_own(self.network):
            return
        if self.options:
            yield "options", "only your own network takes options; name it with `network`, or leave them out"
        if self.channels % 32:
            yield "channels", f"{self.channels} is not a multiple of 32 (GroupNorm has 32 groups)"


class VaVae(Autoencoder):
    """Continuous tokenizer: VA-VAE f16d32 by default; MAR's KL-16 is `preset: kl16`."""

    network: ContinuousNetwork = Field(default="vavae", description="your own: see `mixar/tokens/tokenizers.py`")
    latent_channels: Count = Field(default=32, description="channels per token")
    attention_levels: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(4,), description="levels with attention, counted from 0"
    )
    decoder_attention: bool = Field(default=True, description="attention in the decoder as well; KL-16: false")
    statistics: FilePath | None = Field(
        default=None, description="file with the latents' mean and std; null: computed from the training images"
    )
    scale: Positive | None = Field(default=None, description="one scale factor instead of statistics; KL-16: 0.2325")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        levels = len(self.multipliers)
        beyond = [level for level in self.attention_levels if level >= levels]
        if beyond and not is_own(self.network):
            yield "attention_levels", f"{beyond[0]} is not a level of {levels} multipliers; levels are counted from 0"


class MaskBit(Autoencoder):
    """Discrete tokenizer: lookup-free quantisation to `bits` bits per token."""

    network: DiscreteNetwork = Field(default="maskbit", description="your own: see `mixar/tokens/tokenizers.py`")
    bits: Annotated[int, Field(ge=2, le=20)] = Field(default=14, description="bits per token")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        groups = self.train.entropy_groups if self.train else 1
        if groups > self.bits:
            yield "train.entropy_groups", f"{groups} groups of {self.bits} bits; use fewer"


class GeneratorTraining(Training):
    """Training of MaskBit's bit transformer."""

    label_drop_rate: Rate = Field(
        default=0.1, description="share of the images whose class is dropped, for classifier-free guidance (MaskBit)"
    )
    label_smoothing: Rate = Field(default=0.1, description="smoothing of the cross-entropy's labels (MaskBit)")


class GeneratorSampler(Section):
    """How MaskBit draws the evaluation tokens; the defaults are MaskBit's README for 14 bits and 128 steps."""

    num_steps: Count = Field(default=128, description="forward passes")
    guidance_scale: float = Field(default=7.1, description="classifier-free guidance scale at its maximum")
    guidance_annealing: Literal["none", "linear", "cosine"] = Field(
        default="cosine", description="how guidance grows over the steps"
    )
    scale_pow: Annotated[float, Field(ge=0)] = Field(default=3.0, description="exponent of that growth")
    randomize_temperature: Annotated[float, Field(ge=0)] = Field(
        default=9.0, description="temperature of the noise on the confidences that select which tokens are kept"
    )
    softmax_temperature: Positive = Field(default=1.0, description="temperature of the tokens' softmax")
    mask_schedule: Literal["arccos", "cosine", "linear", "square", "root"] = Field(
        default="arccos", description="share of masked tokens over the steps"
    )
    precision: Precision = Field(
        default="float32", description="precision of drawing tokens, and of MaskBit's own images (autocast)"
    )


class Generator(Section):
    """MaskBit's bit transformer (LFQBert); the defaults are its 14-bit model."""

    weights: FilePath | None = Field(
        default=None, description="file of the weights; null: trained by the study, see `train`"
    )
    train: GeneratorTraining | None = Field(
        default=None, description="training of a small generator; null: give `weights`"
    )
    width: Count = Field(default=1024, description="width of the transformer; a multiple of `heads`")
    depth: Count = Field(default=24, description="transformer blocks")
    heads: Count = Field(default=16, description="attention heads")
    mlp_width: Count = Field(default=4096, description="hidden width of the blocks' MLPs")
    splits: Count = Field(
        default=2, description="groups of bits that are masked and drawn separately; divides `discrete.bits`"
    )
    dropout: Rate = Field(default=0.1, description="dropout in the blocks")
    sampler: GeneratorSampler = Field(default=GeneratorSampler(), description="how the evaluation tokens are drawn")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "width", f"{self.width} is not divisible by heads {self.heads}"


class Model(Section):
    """Size of a masked autoregressive transformer and its diffusion head."""

    width: Count = Field(description="width of the encoder; a multiple of `heads`")
    encoder_depth: Count = Field(description="blocks of the encoder")
    decoder_depth: Count = Field(description="blocks of the decoder")
    heads: Count = Field(description="attention heads of the encoder")
    decoder_width: Count | None = Field(default=None, description="width of the decoder; null: the encoder's")
    decoder_heads: Count | None = Field(default=None, description="attention heads of the decoder; null: the encoder's")
    mlp_ratio: Annotated[Positive, Field(le=1000)] = Field(
        default=4.0, description="hidden width of an MLP, as a multiple of its width"
    )
    buffer_size: Count = Field(default=64, description="class tokens before the image tokens (MAR)")
    dropout: Rate = Field(default=0.1, description="dropout of attention and projections (MAR)")
    head_depth: Count = Field(description="residual blocks of the diffusion head")
    head_width: Count = Field(description="width of the diffusion head")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "width", f"{self.width} is not divisible by heads {self.heads}"
        width, heads = self.decoder_width or self.width, self.decoder_heads or self.heads
        if width % heads:
            yield "", f"the decoder's width {width} is not divisible by its heads {heads}"


class MarTraining(Training):
    """Training of the runs."""

    mask_rate_min: Rate = Field(default=0.7, description="smallest share of masked tokens (MAR)")
    label_drop_rate: Rate = Field(
        default=0.1, description="share of the images whose class is dropped, for classifier-free guidance (MAR)"
    )
    head_batch_multiplier: Count = Field(default=4, description="noise levels drawn for each token and step (MAR)")
    mask_group: Count | None = Field(
        default=None,
        description="images that share a mask rate and whose random numbers are made together; null: the whole batch. "
        "Divides `batch_size`",
    )
    equal_mask_rates: bool = Field(
        default=False,
        description="one mask rate for all groups of a step, so that no GPU waits for one with more masked tokens",
    )
    milestones: tuple[Count, ...] = Field(
        default=(),
        description="epochs whose averaged weights are kept, sampled and scored as `RUN@EPOCH`; ascending",
    )
    keep_states: bool = Field(
        default=False,
        description="keep the whole state (weights, average, moments) at milestones and at the end, so that the run "
        "can be extended; what a run continues from by `parent` is kept in any case",
    )
    start_warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = Field(
        default=100,
        description="steps of linear warm-up where weights without moments are continued (`start`, or a parent whose "
        "state is gone); at most one epoch",
    )
    held_out_images: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=512,
        description="held-out images behind the held-out loss at each checkpoint; 0: none. Changes no number",
    )
    expected: dict[Epoch, tuple[float, float]] = Field(
        default={},
        description="lowest and highest loss at the end of these epochs, such as `{1: [0.4, 0.6]}`; outside, the "
        "training raises an alarm and continues. Changes no number",
        json_schema_extra={"keys": "epoch"},
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        for epoch, (low, high) in self.expected.items():
            if low >= high:
                yield f"expected.{epoch}", f"[{low:g}, {high:g}] is not a band; give the lower loss first"
        if list(self.milestones) != sorted(set(self.milestones)):
            yield "milestones", f"{list(self.milestones)} must ascend, each epoch once"
        if beyond := [epoch for epoch in self.milestones if epoch > self.epochs]:
            yield "milestones", f"no epoch reaches {beyond[0]}: `epochs` is {self.epochs}; raise it, or take it out"
        if self.micro_batch is not None:
            yield "micro_batch", "for runs it is hardware; give hardware.micro_batch, or hardware.runs.NAME"


class Guidance(Section):
    """Which strategy injects the discrete tokens."""

    strategy: Strategy = Field(
        default="none",
        description="`none`: MAR; `dc_mix`: DC-Mix (Eq. 9); `dc_sa`, `dc_ca`: DC-SA, DC-CA (Section 3.3). Your own: "
        "see `mixar/model/guidance.py`",
    )
    options: dict[str, Any] = Field(
        default={},
        description="arguments for the strategy's constructor: `drop_tokens_in_null` (default false) drops the "
        "tokens with the class; `dc_sa` has `stage` (`decoder`, `encoder` or `both`; default `decoder`)",
    )


class TiMix(Section):
    """TI-Mix: λ, the rate of ground-truth guidance, over a run (Eq. 12)."""

    schedule: Schedule = Field(
        default="linear", description="how λ goes from `start` to `end`. Your own: see `mixar/model/ti_mix.py`"
    )
    start: Rate = Field(default=1.0, description="λ at the start of the run")
    end: Rate = Field(default=0.0, description="λ at the end of the run")
    step_at: Rate = Field(default=0.5, description="`step`: share of the run after which λ jumps to `end`")
    temperature: Positive = Field(default=1.0, description="temperature of the generator's softmax (Eq. 11)")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.start < self.end:
            yield "", f"the rate of ground truth rises from {self.start:g} to {self.end:g}; it must fall (Eq. 12)"


class Sweep(Section):
    """Guidance scales that are tried before the images of a run are drawn."""

    cfg: tuple[Annotated[float, Field(ge=0)], ...] = Field(description="the scales, at least two; 1: no guidance")
    num_images: Count = Field(default=10_000, description="images drawn and scored for each scale")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if len(self.cfg) < 2:
            found = "one scale leaves nothing to choose" if self.cfg else "no scale is given"
            yield "cfg", f"{found}; give at least two, such as [2, 3, 4], or no sweep and the sampler's own `cfg`"
        if twice := [scale for place, scale in enumerate(self.cfg) if scale in self.cfg[:place]]:
            yield "cfg", f"{twice[0]:g} occurs twice; give each scale once"


class Run(Section):
    """One trained method."""

    label: Label = Field(description="name in tables and figures; unique")
    model: Name = Field(description="a key of `models`")
    guidance: Guidance = Field(default=Guidance(), description="the strategy that injects the discrete tokens")
    ti_mix: TiMix | None = Field(default=None, description="TI-Mix; null: without")
    parent: Network | None = Field(
        default=None,
        description="run, or milestone `RUN@EPOCH`, that is continued, seed by seed: its weights, average and moments",
    )
    start: FilePattern | None = Field(default=None, description="file of weights to continue; `{seed}` is filled in")
    weights: FilePattern | None = Field(
        default=None,
        description="file of finished weights, released ones included: nothing is trained; `{seed}` is filled in",
    )
    start_epochs: Annotated[int, Field(ge=0, le=10**9)] = Field(
        default=0, description="epochs that `start` or `weights` were trained for; Figure 8's axis counts them"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(default=(0,), description="one training for each")
    samplers: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        default=("default",), description="keys of `samplers`; images are drawn with each"
    )
    sweep: Sweep | None = Field(
        default=None,
        description="choose the guidance scale of each sampler by a sweep, for the run and each milestone, with the "
        "first seed; it replaces the samplers' `cfg`, except where that is 1. Null: the samplers' `cfg`",
    )
    training: dict[str, Any] = Field(default={}, description="keys of the study's `training` that differ for this run")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds", f"{list(self.seeds)} names a seed twice"
        if len(set(self.samplers)) < len(self.samplers):
            yield "samplers", f"{list(self.samplers)} names a sampler twice"
        if self.ti_mix and self.guidance.strategy == "none":
            yield "ti_mix", ("TI-Mix mixes discrete tokens, but guidance.strategy is 'none'; choose a guided strategy")
        if len(given := [key for key in ("parent", "start", "weights") if getattr(self, key)]) > 1:
            yield "", f"{' and '.join(f'`{key}`' for key in given)} each say where weights come from; keep one"
        if self.weights and (self.ti_mix or self.training):
            yield "weights", "nothing is trained, so `ti_mix` and `training` have no meaning; leave them out"


class Sampler(Section):
    """How images are drawn from a trained run."""

    num_iterations: Count = Field(default=64, description="steps of the masked decoding")
    skeleton_iterations: Count | None = Field(
        default=None,
        description="iterations, the first ones, that draw every second position, as the dark fields of a "
        "checkerboard; the others fill in between (GtR, arXiv 2510.17171, without its choice of head steps by "
        "frequency). Null: all positions in random order",
    )
    head_steps: HeadSteps = Field(default=100, description="diffusion steps per token; of the first iteration")
    head_schedule: Literal["constant", "linear", "cosine", "two_stage"] = Field(
        default="constant",
        description="how the diffusion steps fall over the iterations, to `head_steps_last` (DiSA, arXiv 2505.20297)",
    )
    head_steps_last: HeadSteps | None = Field(
        default=None, description="diffusion steps of the last iteration; null: the schedule is `constant`"
    )
    head_switch: Rate = Field(
        default=0.5, description="`two_stage`: share of the iterations after which `head_steps_last` holds"
    )
    modulation_every: Count = Field(
        default=1,
        description="diffusion steps that share the head's modulation (shifts, scales and gates, three fifths of its "
        "cost), which is the first one's",
    )
    cfg: Annotated[float, Field(ge=0)] = Field(default=3.0, description="classifier-free guidance scale")
    cfg_schedule: Literal["linear", "constant"] = Field(
        default="linear", description="how the scale grows over the iterations"
    )
    cfg_interval: tuple[Rate, Rate] | None = Field(
        default=None,
        description="guide only while the share of drawn tokens, after an iteration, is in this interval; outside "
        "there is no unguided pass (arXiv 2404.07724, 2503.07197). Null: always",
    )
    temperature: Annotated[float, Field(ge=0)] = Field(default=1.0, description="temperature of the diffusion's noise")
    clip: Positive | None = Field(
        default=None,
        description="largest magnitude of predicted latents, in standard deviations; null: no limit, as in MAR",
    )
    precision: Precision = Field(
        default="float32",
        description="precision of drawing latents and of decoding them to pixels (autocast); MAR: float16",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if (first := self.skeleton_iterations) and first >= self.num_iterations:
            yield "skeleton_iterations", f"{first} of {self.num_iterations} leave none to fill in; give fewer"
        last = self.head_steps_last
        if self.head_schedule == "constant" and last is not None:
            yield "head_steps_last", "a constant schedule has no other last value; give head_schedule: linear"
        if self.head_schedule != "constant" and last is None:
            yield "head_schedule", f"{self.head_schedule!r} needs `head_steps_last`, such as 5"
        if last is not None and last > self.head_steps:
            yield "head_steps_last", f"{last} is above head_steps {self.head_steps}; the steps must fall"
        if self.cfg_interval and self.cfg_interval[0] >= self.cfg_interval[1]:
            yield "cfg_interval", f"{list(self.cfg_interval)} is empty; give the lower share first"
        if self.cfg_interval and self.cfg == 1:
            yield "cfg_interval", "cfg is 1, so there is no guidance to restrict; leave it out, or raise cfg"


class Evaluation(Section):
    """The images that every method draws."""

    num_images: Annotated[Count, Field(le=10**8)] = Field(default=50_000, description="images per run and sampler")
    labels: Literal["balanced", "training"] = Field(
        default="balanced", description="`balanced`: equally many per class; `training`: the training set's proportions"
    )
    shard_size: Count = Field(default=1000, description="images per file, drawn by one job; part of the numbers")
    batch_size: Count = Field(
        default=256, description="images per forward pass; part of the numbers, because noise is drawn per batch"
    )
    seed: Seed = Field(default=0, description="seed of all draws")
    keep_images: Literal["all"] | Count = Field(
        default="all",
        description="drawn images kept as PNG: `all`, or the first so many of each file (`shard_size`), enough for the "
        "report's sheets. The others leave their features alone: the scores are the same, bit for bit, but other "
        "features mean drawing again",
    )

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.num_shards > MAX_SHARDS:
            yield (
                "shard_size",
                (
                    f"{self.num_images} images in shards of {self.shard_size} are {self.num_shards} shards, but "
                    f"at most {MAX_SHARDS} are possible; make them larger"
                ),
            )


class ExtractorTraining(Training):
    """Training of the small feature network."""

    label_smoothing: Rate = Field(default=0.1, description="smoothing of the cross-entropy's labels")


class Extractor(Section):
    """Feature network behind every score."""

    network: FeatureNetwork = Field(
        description="`subgroup-cnn`: a small network that the study can train. Your own: see "
        "`mixar/scoring/extractors.py`"
    )
    weights: FilePath | None = Field(
        default=None, description="file of the weights; null: trained by the study, see `train`"
    )
    train: ExtractorTraining | None = Field(
        default=None, description="training on the fine classes; null: give `weights`"
    )
    channels: Count = Field(
        default=32, description="`subgroup-cnn`: width of its first stage; features are 4 times as many"
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.weights is None and self.train is None:
            yield "", NO_WEIGHTS
        elif self.weights is None and not network_of(self.network).is_trainable:
            yield "", f"{self.network!r} is not trained here; give its `weights`"


class Scoring(Section):
    """Metrics and the protocol that names them."""

    protocol: str = Field(
        description="reference images, crop, rounding and network behind the scores, such as `adm256-gfid`; for your "
        "own data `own-gfd`"
    )
    reconstructions: str | dict[Literal["continuous", "discrete"], str] | None = Field(
        default=None,
        description="protocol of the reconstructions, or one per tokenizer, such as `{continuous: vavae-val-rfid}`; "
        "null: the one that matches `protocol`",
    )
    extractor: Extractor = Field(description="feature network behind the scores")
    metrics: tuple[Metric, ...] = Field(
        default=("fd", "is", "kid", "precision", "recall"),
        description="metrics to compute; your own is named by its function: see `mixar/scoring/metrics`",
    )
    further: dict[FurtherNetwork, FilePath] = Field(
        default={},
        description="weights of further feature networks; each adds metrics: "
        + "; ".join(f"`{name}`: {', '.join(m.name for m in network_of(name).metrics)}" for name in FURTHER)
        + '; `"my_module:Mine"`: fd_Mine, see `mixar/scoring/extractors.py`',
    )
    further_statistics: dict[str, FilePath] = Field(
        default={},
        description="for the same networks: `.npz` files with `mu` and `sigma` (`inception-spatial`: ADM's `mu_s`, "
        "`sigma_s`) that replace the reference images",
    )
    kid_subsets: Count = Field(default=100, description="random subsets of KID")
    kid_subset_size: Count = Field(default=1000, description="images per subset")
    is_splits: Count = Field(default=10, description="splits of the Inception Score")
    neighbours: Count = Field(default=3, description="k of precision and recall")
    copies: bool = Field(
        default=False,
        description="share of drawn images that are closer to a training image than held-out images are, in features "
        "and in pixels, and a figure of samples beside their nearest training images",
    )
    jackknife_groups: Annotated[Count, Field(ge=2)] = Field(
        default=10, description="groups of images, left out in turn for the 95 % intervals"
    )

    def reconstruction_protocol(self, kind: str) -> str | None:
        """The protocol that the study names for a tokenizer's reconstructions (kind: continuous or discrete)."""
        if not isinstance(self.reconstructions, dict):
            return self.reconstructions
        return next((name for named, name in self.reconstructions.items() if named == kind), None)

    @property
    def own_metrics(self) -> dict[str, str]:
        """The "module:function" of each metric of the study's own, by the metric's name in result rows."""
        return {choices.metric_name(entry): entry for entry in self.metrics if is_own(entry)}

    @property
    def metric_names(self) -> list[str]:
        """Every metric's name in result rows."""
        return [choices.metric_name(entry) for entry in self.metrics]

    def conflicts(self) -> Iterator[tuple[str, str]]:
        first: dict[str, str] = {}
        for name, entry in zip(self.metric_names, self.metrics, strict=True):
            if name in first:
                both = f"{first[name]!r} and {entry!r} are both named {name!r}"
                yield "metrics", f"{f'{entry!r} occurs twice' if first[name] == entry else both}; keep one"
            first.setdefault(name, entry)
        brought = [metric.name for name in self.further for metric in network_of(name).metrics if is_own(name)]
        for name in brought:
            if name in first or name in choices.RESERVED_METRICS or brought.count(name) > 1:
                yield "further", f"two metrics are named {name!r}; rename the network's class"
        for name in self.further_statistics:
            if name not in self.further:
                yield "further_statistics", f"{name!r} is not a network of scoring.further"


class Measure(Section):
    """What `measure` times."""

    batch_size: Count = Field(default=256, description="images per timed batch")
    train_steps: Count = Field(default=10, description="training steps per repeat")
    repeats: Count = Field(default=3, description="repeats, whose median is reported")


class TiMixFigure(Section):
    """Figure 8: one parent, continued with and without TI-Mix."""

    parent: Network = Field(description="the run or milestone that both continue")
    plain: Network = Field(description="continued without TI-Mix")
    ti_mix: Network = Field(description="continued with TI-Mix")


class Claims(Section):
    """Which runs the paper's claims compare."""

    baseline: Network = Field(description="MAR")
    guided: Network = Field(description="DC-Mix")
    self_attention: Network | None = Field(default=None, description="DC-SA")
    final: Network | None = Field(
        default=None, description="the full MixAR, compared with MaskBit's own images; null: `guided`"
    )


class Report(Section):
    """Which runs appear where."""

    table2: tuple[Network, ...] | None = Field(
        default=None, description="runs of Table 2; null: all without a `parent`"
    )
    figure7: tuple[Network, ...] | None = Field(
        default=None, description="runs of Figure 7; null: all without a `parent`"
    )
    figure8: TiMixFigure | None = Field(default=None, description="runs of Figure 8; null: no Figure 8")
    claims: Claims | None = Field(default=None, description="runs that the paper's claims compare; null: no claims")
    joined: tuple[FilePath, ...] = Field(
        default=(),
        description="results folders of other studies, such as `results/mar_released`; their runs join Table 1",
    )
    grid: tuple[Side, Side] = Field(default=(4, 8), description="rows and columns of the image sheets")
    sampler: Name = Field(default="default", description="sampler of the main tables")


class TrainingHardware(Section):
    """What a training runs on: the keys of `hardware` that may differ from run to run."""

    gpus: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=0, description="GPUs of one training, over all its nodes, equally many on each; 0: CPU"
    )
    nodes: Count = Field(default=1, description="nodes of one training")
    micro_batch: Count | None = Field(
        default=None,
        description="images per forward pass and process of a run's training; gradients add up to the whole batch; "
        "null: all at once",
    )
    minutes: Count = Field(
        default=2880, description="time limit of a training's job; a training that needs more resumes in a new job"
    )
    checkpoint_blocks: bool = Field(
        default=False, description="recompute the blocks' activations in the backward pass: less memory, more time"
    )
    sequential_draws: bool = Field(
        default=False,
        description="run the head on one of the `head_batch_multiplier` noise draws at a time: less memory",
    )
    fast_dropout: bool = Field(
        default=False,
        description="on CPUs: draw dropout masks from a quarter of the random numbers; the rate is rounded to 1/65536",
    )
    compile: bool = Field(default=False, description="compile the blocks and the head with `torch.compile`")

    @property
    def processes(self) -> int:
        """Of one training: one for each GPU, or for each node without GPUs."""
        return max(self.gpus, self.nodes)

    @property
    def gpus_per_node(self) -> int:
        return self.gpus // self.nodes

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.gpus % self.nodes:
            yield "gpus", f"{self.gpus} GPUs cannot be shared equally by {self.nodes} nodes; give a multiple"


class Hardware(TrainingHardware):
    """How the study runs here. No key enters a digest: none changes what is computed beyond rounding.

    (Dropout draws for each micro-batch: with it, processes and micro-batches change which units are dropped, and so
    does `fast_dropout`.)
    """

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto`: a GPU if there is one")
    card: Card | None = Field(
        default=None,
        description="the GPUs' model: its speed, to plan with, and its memory, beyond which trainings are refused; "
        "null: unknown",
    )
    checkpoint_minutes: Annotated[Positive, Field(le=10**9)] = Field(
        default=10.0, description="minutes between checkpoints of a training; SIGTERM and Ctrl-C save one at once"
    )
    runs: dict[str, dict[str, Any]] = Field(
        default={},
        description="by run: its own `gpus`, `nodes`, `micro_batch`, `minutes`, `checkpoint_blocks`, "
        "`sequential_draws`, `fast_dropout` and `compile`; keys left out are as above",
    )
    results: FilePath = Field(default="results", description="folder for all results")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        if self.gpus and self.device == "cpu":
            yield "gpus", f"{self.gpus} GPUs per training, but hardware.device is 'cpu'; set gpus 0, or device cuda"


class Study(Section):
    """A whole study."""

    study: Name = Field(description="name of the folder below `results/`: lower-case letters, digits, underscores")
    title: Label = Field(description="title of the report")
    data: Data = Field(description="images and their split")
    continuous: VaVae = Field(description="continuous tokenizer")
    discrete: MaskBit = Field(description="discrete tokenizer")
    generator: Generator = Field(description="generator of discrete tokens")
    models: dict[Name, Model] = Field(description="sizes of the trained models, by name")
    training: MarTraining = Field(description="training of every run")
    samplers: dict[Name, Sampler] = Field(description="ways to draw images, by name")
    runs: dict[Name, Run] = Field(description="trained methods, by name")
    evaluation: Evaluation = Field(description="the images that every method draws")
    scoring: Scoring = Field(description="metrics and their protocol")
    measure: Measure = Field(default=Measure(), description="what `measure` times")
    report: Report = Field(default=Report(), description="which runs appear where")
    hardware: Hardware = Field(default=Hardware(), description="how the study runs here; changes no number")

    @property
    def grid(self) -> int:
        """Tokens per image side."""
        return self.data.image_size // self.continuous.stride

    @property
    def num_tokens(self) -> int:
        return self.grid**2

    @property
    def networks(self) -> dict[str, Run]:
        """Every trained network by name: of each run its milestones, then the run itself."""
        return {name: network for run in self.runs for name, network in self._networks_of(run)}

    def _networks_of(self, run: str) -> Iterator[tuple[str, Run]]:
        settings = self.runs[run]
        for epoch in self.milestones_of(run):
            label = f"{settings.label}, epoch {epoch}"
            yield names.milestone(run, epoch), settings.model_copy(update={"label": label})
        yield run, settings

    def milestones_of(self, run: str) -> tuple[int, ...]:
        """The epochs at which a run's weights are kept; none where nothing is trained."""
        settings = self.runs[run]
        found = settings.training.get("milestones", self.training.milestones)
        is_list = isinstance(found, (list, tuple))  # a run's own keys are validated by `training_of`
        return tuple(found) if is_list and not settings.weights else ()

    def milestone_before(self, name: str) -> str | None:
        """The last milestone of the same run before this network."""
        run, epoch = names.split(name)
        earlier = [each for each in self.milestones_of(run) if epoch is None or each < epoch]
        return names.milestone(run, earlier[-1]) if earlier else None

    def up_to(self, name: str) -> list[str]:
        """A network and the milestones before it, in the order of training; a milestone at the run's end is the run."""
        run, last = names.split(name)[0], self.epochs_of(name)
        return [names.milestone(run, epoch) for epoch in self.milestones_of(run) if epoch < last] + [name]

    def drawings_of(self, name: str) -> list[tuple[int, str]]:
        """Seeds and samplers by which images of a network are drawn; MaskBit's own are decoded once."""
        if name == names.MASKBIT:
            return [(0, "default")]
        network = self.networks[name]
        return [(seed, sampler) for seed in network.seeds for sampler in network.samplers]

    @property
    def drawings(self) -> list[tuple[str, int, str]]:
        """Network, seed and sampler of every set of images: MaskBit's own first, then those of the networks."""
        return [(name, *drawn) for name in (names.MASKBIT, *self.networks) for drawn in self.drawings_of(name)]

    def headline_sampler(self, name: str) -> str | None:
        """The sampler behind a network's headline: the report's, or its first where it was not drawn with that one.

        None for what is no network of this study.
        """
        if name not in self.networks:
            return None
        samplers = self.networks[name].samplers
        return self.report.sampler if self.report.sampler in samplers else samplers[0]

    def shown_drawing(self, name: str) -> tuple[str, int, str]:
        """Network, seed and sampler of the images that the report shows of a run."""
        seed, sampler = self.drawings_of(name)[0]
        return name, seed, self.headline_sampler(name) or sampler

    def sweep_of(self, name: str, sampler: str) -> Sweep | None:
        """The sweep that chooses a sampler's guidance scale for a network; none for MaskBit and unguided samplers."""
        if name == names.MASKBIT or self.samplers[sampler].cfg == 1:
            return None
        return self.networks[name].sweep

    @property
    def sweeps(self) -> dict[tuple[str, str], Sweep]:
        """Every sweep by network and sampler."""
        pairs = [(name, sampler) for name, run in self.networks.items() for sampler in run.samplers]
        return {pair: sweep for pair in pairs if (sweep := self.sweep_of(*pair))}

    @property
    def has_several_samplers(self) -> bool:
        """Whether the runs are drawn with more than one sampler."""
        return len({sampler for run in self.runs.values() for sampler in run.samplers}) > 1

    def shards_of(self, num_images: int) -> int:
        """Files, and jobs, that so many images are drawn in."""
        return -(-num_images // self.evaluation.shard_size)

    def is_continued(self, name: str) -> bool:
        """Whether a run has this network as its parent, which therefore keeps its whole state."""
        place = names.split(name)[0], self.epochs_of(name)
        parents = [run.parent for run in self.runs.values() if run.parent]
        return any((names.split(parent)[0], self.epochs_of(parent)) == place for parent in parents)

    def takes_moments(self, run: str) -> bool:
        """Whether a run goes on with its parent's optimizer moments; those of another optimizer are of no use."""
        parent = self.runs[run].parent
        if parent is None:
            return False
        before = self.training_of(names.split(parent)[0])
        return before.optimizer == self.training_of(run).optimizer

    def epochs_of(self, name: str) -> int:
        """Epochs that this study trains a network for; none for given weights."""
        run, epoch = names.split(name)
        return 0 if self.runs[run].weights else epoch or self.training_of(run).epochs

    def shown(self, listed: tuple[str, ...] | None) -> list[str]:
        """Runs of a table or figure: those listed, else every run that continues no other."""
        return list(listed or (name for name, run in self.runs.items() if not run.parent))

    def training_of(self, run: str) -> MarTraining:
        """The study's training with this run's differences applied."""
        return MarTraining.model_validate({**self.training.model_dump(), **self.runs[run].training})

    def hardware_of(self, run: str) -> TrainingHardware:
        """What this run's training runs on: `hardware` with the run's own keys applied."""
        common = self.hardware.model_dump(include=set(TrainingHardware.model_fields))
        return TrainingHardware.model_validate({**common, **self.hardware.runs.get(run, {})})
