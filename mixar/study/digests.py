"""What each stage's result depends on: a change of its digest makes the result again."""

from __future__ import annotations

from mixar.study.code_hashes import is_ours, source_hash
from mixar.study.identity import digest, plain
from mixar.study.paths import in_digest
from mixar.study.sections import Study


class Digests:
    """What identifies each stage's result: its own settings and the digests of what it reads."""

    def __init__(self, study: Study):
        self.study = study
        self._hashes: dict[str, str] = {}

    def _source(self, where: str | None) -> list[str]:
        """The hash of the source behind "module:name", where it is none of ours; computed once."""
        if where is None or is_ours(where):
            return []
        if where not in self._hashes:
            self._hashes[where] = source_hash(where)
        return [self._hashes[where]]

    def own_code(self, run: str) -> dict[str, str]:
        """Source hashes of what the study brings and a result of this run depends on, by "module:name"."""
        s = self.study
        named = [s.continuous.network, s.discrete.network, *s.scoring.own_metrics.values()]
        named += [s.guidance_table[s.runs[run].guidance.strategy]] if run in s.runs else []
        return {where: found for where in named for found in self._source(where)}

    def metric_code(self) -> dict[str, str]:
        """Source hashes of the study's own metrics, by the name of the metric."""
        named = self.study.scoring.own_metrics.items()
        return {metric: found for metric, where in named for found in self._source(where)}

    def ingest(self) -> str:
        return digest("ingest", plain(self.study.data, exclude={"num_shards"}))

    def tokenizer(self, kind: str) -> str:
        settings = getattr(self.study, kind)
        return digest("tokenizer", kind, self.ingest(), settings, *self._source(settings.network))

    def tokenize(self) -> str:
        return digest("tokenize", self.study.data, self.tokenizer("continuous"), self.tokenizer("discrete"))

    def generator(self) -> str:
        return digest("generator", self.tokenize(), plain(self.study.generator, exclude={"sampler"}))

    def generate(self) -> str:
        return digest("generate", self.generator(), self.study.generator.sampler, self.study.evaluation)

    def train(self, run: str, seed: int) -> str:
        s, r = self.study, self.study.runs[run]
        strategy = s.guidance_table[r.guidance.strategy]
        guidance = [r.guidance, strategy, *self._source(strategy)]
        parts = [
            "train",
            self.tokenize(),
            s.models[r.model],
            s.training_of(run),
            *guidance,
            r.ti_mix,
            r.start and in_digest(r.start),
            seed,
        ]
        if r.weights:
            return digest("import", s.models[r.model], *guidance, in_digest(r.weights), seed)
        if r.ti_mix:
            parts.append(self.generator())
        if r.parent:
            parts.append(self.train(r.parent, seed))
        return digest(*parts)

    def sample(self, run: str, seed: int, sampler: str) -> str:
        """run 'maskbit': the generator's own images. The protocol rounds pixels."""
        if run == "maskbit":
            return digest("sample", self.generate(), self.tokenizer("discrete"), self.study.scoring.protocol)
        parts = self.train(run, seed), self.generate(), self.study.samplers[sampler], self.study.scoring.protocol
        return digest("sample", *parts)

    def reconstruct(self, kind: str) -> str:
        """The protocols choose and crop the images, and round pixels."""
        used = plain(self.study.scoring, include={"protocol", "reconstructions"})
        return digest("reconstruct", self.tokenizer(kind), self.study.data.num_shards, used)

    def extractor(self) -> str:
        return digest("extractor", self.ingest(), self.study.scoring.extractor)

    def features(self) -> str:
        """Of what images are measured with: the networks and the protocols, but no metric."""
        used = plain(self.study.scoring, include={"protocol", "reconstructions", "further"})
        return digest("features", self.extractor(), used)

    def score(self) -> str:
        sources = self.metric_code().values()
        return digest("score", self.extractor(), self.study.scoring, self.study.evaluation, *sources)

    def measure(self, run: str) -> str:
        s, r = self.study, self.study.runs[run]
        samplers = [plain(s.samplers[name]) for name in r.samplers]
        sizes = [s.num_tokens, s.data, s.continuous, s.discrete, s.models[r.model], s.evaluation.batch_size]
        strategy = s.guidance_table[r.guidance.strategy]
        guidance = [r.guidance, strategy, r.ti_mix]
        for where in (strategy, s.continuous.network, s.discrete.network):
            guidance += self._source(where)
        return digest("measure", s.measure, *sizes, s.training_of(run), *guidance, s.generator, samplers)
