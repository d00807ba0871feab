"""What each stage's result depends on: a changed digest recomputes it. And the seeds that derive from settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from mixar.study import names
from mixar.study.choices import is_own
from mixar.study.code_hashes import is_ours, source_hash
from mixar.study.paths import IN_DIGEST, in_digest
from mixar.study.sections import Sampler, Study

# Keys for those who watch a training: they change no number.
WATCHING = {"held_out_images", "expected"}
# How many of the drawn images stay: no number depends on it, but the files of images do.
KEPT = {"keep_images"}
MASK_GROUPS = {"mask_group", "equal_mask_rates"}


def plain(section: BaseModel, **choice: Any) -> dict:
    """A section as it enters a digest, with one text for all spellings of a path. choice: include=, exclude=."""
    dumped = section.model_dump(mode="json", context={IN_DIGEST: True}, **choice)
    return {key: value for key, value in dumped.items() if key not in WATCHING | KEPT}


def digest(*parts: Any) -> str:
    """Sixteen hex characters that identify settings: sections, plain values, or other digests."""
    text = json.dumps([plain(part) if isinstance(part, BaseModel) else part for part in parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on every part: the one way randomness is derived from the spec."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "big") >> 1


def _unscaled(sampler: Sampler) -> dict:
    """A sampler whose scale a sweep chooses."""
    return plain(sampler, exclude={"cfg"})


class Digests:
    """What identifies each stage's result: its own settings and the digests of what it reads."""

    def __init__(self, study: Study):
        self.study = study
        self._hashes: dict[str, str] = {}

    def _source(self, *chosen: str) -> list[str]:
        """The hashes of the sources behind choices that are a "module:name" outside mixar; each computed once."""
        own = [name for name in chosen if is_own(name) and not is_ours(name)]
        for name in own:
            if name not in self._hashes:
                self._hashes[name] = source_hash(name)
        return [self._hashes[name] for name in own]

    def own_code(self, name: str) -> dict[str, str]:
        """Source hashes of what the study brings and a result of this network depends on, by "module:name"."""
        s, (run, _) = self.study, names.split(name)
        named = [s.data.source, s.continuous.network, s.discrete.network, s.scoring.extractor.network]
        named += [
            *s.scoring.metrics,
            *s.scoring.further,
            *self._optimizers(s.continuous, s.discrete, s.generator, s.scoring.extractor),
        ]
        if run in s.runs:
            ti_mix = s.runs[run].ti_mix
            named += [s.runs[run].guidance.strategy, s.training_of(run).optimizer]
            named += [ti_mix.schedule] if ti_mix else []
        return {name: found for name in named for found in self._source(name)}

    @staticmethod
    def _optimizers(*sections: Any) -> list[str]:
        """What trains the networks of these sections, where the study trains them."""
        return [section.train.optimizer for section in sections if section.train and section.weights is None]

    def metric_code(self) -> dict[str, str]:
        """Source hashes of the study's own metrics, by the name of the metric."""
        named = self.study.scoring.own_metrics.items()
        return {metric: found for metric, where in named for found in self._source(where)}

    def ingest(self) -> str:
        data = self.study.data
        return digest("ingest", plain(data, exclude={"num_shards"}), *self._source(data.source))

    def tokenizer(self, kind: str) -> str:
        settings = getattr(self.study, kind)
        own = self._source(settings.network, *self._optimizers(settings))
        return digest("tokenizer", kind, self.ingest(), plain(settings, exclude={"precision"}), *own)

    def _precision(self, *kinds: str) -> list[dict]:
        """What enters a digest of the precision in which tokenizers work: nothing for float32."""
        return [found for kind in kinds if (found := plain(getattr(self.study, kind), include={"precision"}))]

    def tokenize(self) -> str:
        kinds = "continuous", "discrete"
        precisions = [{kind: found} for kind in kinds for found in self._precision(kind)]
        return digest("tokenize", self.study.data, *map(self.tokenizer, kinds), *precisions)

    def generator(self) -> str:
        settings = self.study.generator
        own = self._source(*self._optimizers(settings))
        return digest("generator", self.tokenize(), plain(settings, exclude={"sampler"}), *own)

    def generate(self) -> str:
        return digest("generate", self.generator(), self.study.generator.sampler, self.study.evaluation)

    def generate_for_sweep(self, num_images: int) -> str:
        evaluation = plain(self.study.evaluation, exclude={"num_images"})
        return digest("generate", "sweep", num_images, self.generator(), self.study.generator.sampler, evaluation)

    def train(self, name: str, seed: int) -> str:
        """Of a network's weights. A milestone's is that of a run of so many epochs, where that is the same training."""
        run, epoch = names.split(name)
        if epoch is None:
            return self._trained(run, seed, self.study.training_of(run).epochs)
        if self.has_free_length(run):
            return self._trained(run, seed, epoch)
        return digest("milestone", self.trajectory(run, seed), epoch)

    def trajectory(self, run: str, seed: int) -> str:
        """Of a run's training whatever its length, where the length changes no step: it names the checkpoints."""
        return self._trained(run, seed, None if self.has_free_length(run) else self.study.training_of(run).epochs)

    def has_free_length(self, run: str) -> bool:
        """Whether more epochs would leave all earlier steps as they are. An optimizer of the study's own may read
        `epochs`."""
        training = self.study.training_of(run)
        is_constant = training.schedule == "constant" and not is_own(training.optimizer)
        return is_constant and self.study.runs[run].ti_mix is None and self.study.runs[run].weights is None

    def _training(self, run: str, epochs: int | None) -> dict:
        """What enters the digest of a run's training: neither what is kept of it, nor a warm-up or groups of masks
        that it does not have."""
        r, training = self.study.runs[run], plain(self.study.training_of(run), exclude={"milestones", "keep_states"})
        if not (r.parent or r.start) or not training["start_warmup_steps"]:
            del training["start_warmup_steps"]
        if training.get("mask_group") in (None, training["batch_size"]):  # one group, which has one rate
            training = {key: value for key, value in training.items() if key not in MASK_GROUPS}
        del training["epochs"]
        return training if epochs is None else {**training, "epochs": epochs}

    def _trained(self, run: str, seed: int, epochs: int | None) -> str:
        s, r = self.study, self.study.runs[run]
        training = s.training_of(run)
        guidance = [r.guidance, *self._source(r.guidance.strategy)]
        parts = [
            "train",
            self.tokenize(),
            s.models[r.model],
            self._training(run, epochs),
            *self._source(training.optimizer),
            *guidance,
            r.ti_mix,
            *self._source(*([r.ti_mix.schedule] if r.ti_mix else [])),
            r.start and in_digest(r.start),
            seed,
        ]
        if r.weights:
            return digest("import", s.models[r.model], *guidance, in_digest(r.weights), seed)
        if r.ti_mix:
            parts.append(self.generator())
        if r.parent:
            parts += [self.train(r.parent, seed), *(["with moments"] if s.takes_moments(run) else [])]
        return digest(*parts)

    def sample(self, run: str, seed: int, sampler: str, chosen: Sampler | None = None) -> str:
        """run 'maskbit': the generator's own images. The protocol rounds pixels.

        chosen: the sampler with the scale that its sweep chose, which is all that the images take of the sweep; None:
        of what the study says, before there is a choice.
        """
        if run == "maskbit":
            protocol = self.study.scoring.protocol
            return digest("sample", self.generate(), self.tokenizer("discrete"), protocol, *self._kept())
        settings, protocol = chosen or self.study.samplers[sampler], self.study.scoring.protocol
        if chosen is None and self.study.sweep_of(run, sampler):
            chosen_by = self.sweep(run, sampler), self.score_sweep()
            return digest("sample", self.train(run, seed), self.generate(), _unscaled(settings), protocol, *chosen_by,
                          *self._kept())  # fmt: skip
        return digest("sample", self.train(run, seed), self.generate(), settings, protocol, *self._kept())

    def _kept(self) -> list[str | int]:
        """What enters the digest of files of images that do not hold all: nothing for those that do."""
        keep = self.study.evaluation.keep_images
        return [] if keep == "all" else ["kept", keep]

    def sweep(self, run: str, sampler: str) -> str:
        """Of the images that a sweep draws, at all its scales."""
        found = self.study.sweep_of(run, sampler)
        assert found is not None, f"{run} has no sweep of {sampler}"
        trained = self.train(run, self.study.networks[run].seeds[0])
        drawn = _unscaled(self.study.samplers[sampler]), self.study.scoring.protocol, list(found.cfg)
        return digest("sweep", trained, self.generate_for_sweep(found.num_images), *drawn)

    def score_sweep(self) -> str:
        """Of what a sweep's images are compared with."""
        used = plain(self.study.scoring, include={"protocol", "jackknife_groups"})
        return digest("score", "sweep", self.extractor(), used)

    def reconstruct(self, kind: str) -> str:
        """The protocols choose and crop the images, and round pixels."""
        used = plain(self.study.scoring, include={"protocol", "reconstructions"})
        return digest("reconstruct", self.tokenizer(kind), self.study.data.num_shards, used, *self._precision(kind))

    def extractor(self) -> str:
        settings = self.study.scoring.extractor
        own = self._source(settings.network, *self._optimizers(settings))
        return digest("extractor", self.ingest(), settings, *own)

    def features(self) -> str:
        """Of what images are measured with: the networks and the protocols, but no metric."""
        used = plain(self.study.scoring, include={"protocol", "reconstructions", "further"})
        return digest("features", self.extractor(), used, *self._source(*self.study.scoring.further))

    def score(self) -> str:
        """Of drawn images: every metric and its settings."""
        scoring = self.study.scoring
        own = self._source(*scoring.metrics, *scoring.further)
        return digest("score", self.extractor(), scoring, self.study.evaluation, *own)

    def score_reconstruction(self) -> str:
        """Of reconstructions, which have a Fréchet distance and PSNR alone, whatever metrics drawn images have."""
        used = plain(self.study.scoring, include={"protocol", "reconstructions", "jackknife_groups"})
        return digest("score", self.extractor(), used)

    def measure(self, run: str, chosen: Mapping[str, Sampler] | None = None) -> str:
        """chosen: the run's samplers by name, with the scales that their sweeps chose; None: before there is a choice,
        as for `sample`."""
        s, r = self.study, self.study.runs[run]
        samplers = [plain(chosen[name]) if chosen else self._timed(run, name) for name in r.samplers]
        sizes = [s.num_tokens, s.data, s.continuous, s.discrete, s.models[r.model], s.evaluation.batch_size]
        training = s.training_of(run)
        named = [r.guidance.strategy, *([r.ti_mix.schedule] if r.ti_mix else []), training.optimizer]
        own = self._source(*named, s.continuous.network, s.discrete.network)
        unused = {"epochs", "milestones", "keep_states", "start_warmup_steps", *MASK_GROUPS}  # one group is timed
        used = plain(training, exclude=unused)
        return digest("measure", s.measure, *sizes, used, r.guidance, r.ti_mix, *own, s.generator, samplers)

    def _timed(self, run: str, sampler: str) -> dict:
        """What enters the digest of a measurement of a sampler, before a scale is chosen."""
        settings = self.study.samplers[sampler]
        if not self.study.sweep_of(run, sampler):
            return plain(settings)
        return {**_unscaled(settings), "chosen by": [self.sweep(run, sampler), self.score_sweep()]}
