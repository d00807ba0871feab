"""Where each file of a study lies, and what each stage's result depends on.

The Snakefile and the stages take every path from here; nothing else builds one, and none is ever parsed for meaning.
"""

from __future__ import annotations

from pathlib import Path

from mixar.code_hashes import is_ours, source_hash
from mixar.identity import plain
from mixar.listing import is_service
from mixar.spec import Study, digest
from mixar.study_paths import in_digest


class Layout:
    """Paths below results/<study>/. Methods take names and return Path; `"{shard}"` may stand for a number."""

    def __init__(self, study: Study, root: str | Path | None = None):
        self.study = study
        self.root = Path(root or study.hardware.results) / study.study

    @property
    def study_file(self) -> Path:
        """The validated study as the jobs read it."""
        return self.root / "study.json"

    @property
    def manifest(self) -> Path:
        return self.root / "ingest" / "manifest.parquet"

    @property
    def inventory(self) -> Path:
        """Names, sizes and times of the files that the manifest was made of."""
        return self.root / "ingest" / "inventory.json"

    def tokenizer(self, kind: str) -> Path:
        """kind: continuous or discrete."""
        return self.root / "tokenizer" / f"{kind}.safetensors"

    @property
    def statistics(self) -> Path:
        """Mean and std of the training latents, float32 [C] each."""
        return self.root / "tokenizer" / "latent_statistics.safetensors"

    def token_shard(self, shard) -> Path:
        """Latents and tokens of the training and held-out images, cut by manifest row."""
        return self.root / "tokenize" / f"shard-{_number(shard)}.safetensors"

    def token_shards(self) -> list[Path]:
        return [self.token_shard(i) for i in range(self.study.data.num_shards)]

    @property
    def generator(self) -> Path:
        return self.root / "generator" / "generator.safetensors"

    def generated_shard(self, shard) -> Path:
        """MaskBit's tokens for the evaluation labels: tokens [n, N], labels [n], index [n]."""
        return self.root / "generate" / f"shard-{_number(shard)}.safetensors"

    def weights(self, run: str, seed) -> Path:
        """EMA weights of a finished run."""
        return self.root / "train" / run / f"seed{seed}" / "weights.safetensors"

    def losses(self, run: str, seed) -> Path:
        return self.root / "train" / run / f"seed{seed}" / "losses.parquet"

    def checkpoints(self, stage: str, name: str, settings: str) -> Path:
        """In-flight state, never declared to Snakemake (which deletes declared outputs before a rerun)."""
        return self.root / "checkpoints" / f"{stage}-{name}-{settings}"

    def samples(self, run: str, seed, sampler: str, shard) -> Path:
        """Images as Parquet: index, label, image.bytes (PNG)."""
        return self.root / "sample" / run / f"seed{seed}" / sampler / f"shard-{_number(shard)}.parquet"

    def reconstruction(self, kind: str, shard) -> Path:
        return self.root / "reconstruct" / kind / f"shard-{_number(shard)}.parquet"

    def extractor(self) -> Path:
        return self.root / "extractor" / "extractor.safetensors"

    def features(self, images: Path) -> Path:
        """Features of one Parquet file of images, beside the scores and with the same folders below."""
        return self.root / "score" / "features" / images.relative_to(self.root)

    def reference_features(self, split: str) -> Path:
        """split: train, held_out, or reconstructed where reconstructions have a protocol of their own."""
        return self.root / "score" / "reference" / f"{split}.parquet"

    @property
    def reconstruction_split(self) -> str:
        """Which of them reconstructions are scored against."""
        return "held_out" if self.study.scoring.reconstructions is None else "reconstructed"

    def own_features(self, name: str, shard) -> Path:
        """Features of images that somebody brought, by the name of their row."""
        return self.root / "score" / "features" / "own" / name / f"shard-{_number(shard)}.parquet"

    def own_images(self, name: str) -> Path:
        """Which images stand behind that row: their number, hash and path."""
        return self.root / "score" / "own" / name / "images.json"

    def own_without_scores(self) -> list[Path]:
        """Where brought images were scored, and their result rows are no longer there."""
        folders = (path.parent for path in (self.root / "score" / "own").glob("*/images.json"))
        return sorted(path for folder in folders if not (path := folder / "scores.parquet").exists())

    def own_scores(self) -> list[Path]:
        """The result rows of brought images that exist now."""
        found = (self.root / "score" / "own").glob("*/scores.parquet")
        return sorted(path for path in found if not is_service(path.parent.name))

    def scores(self, source: str, name: str, seed=None, sampler: str | None = None) -> Path:
        """source: sample (of a run, with seed and sampler), reconstruct (of a tokenizer) or own (brought images)."""
        file = "scores" if seed is None else f"seed{seed}-{sampler}"
        return self.root / "score" / source / name / f"{file}.parquet"

    def measures(self, run: str) -> Path:
        return self.root / "measure" / f"{run}.parquet"

    def row_files(self) -> list[Path]:
        """Every file of result rows that the finished study has. Brought images have theirs: own_scores."""
        samples = [("maskbit", 0, "default")]
        samples += [(name, seed, sampler) for name, run in self.study.runs.items()
                    for seed in run.seeds for sampler in run.samplers]  # fmt: skip
        scores = [self.scores("sample", *names) for names in samples]
        scores += [self.scores("reconstruct", kind) for kind in ("continuous", "discrete")]
        return scores + [self.measures(run) for run in self.study.runs]

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def figure2_runs(self) -> list[str]:
        """The runs below MaskBit's own images: the claims' guided and final ones, else the first guided one."""
        claims, runs = self.study.report.claims, self.study.runs
        if claims:
            return list(dict.fromkeys(run for run in (claims.guided, claims.final) if run))
        return [name for name, run in runs.items() if run.guidance.strategy != "none"][:1]

    def report_files(self) -> dict[str, Path]:
        """Every file of the report, by its name. Figure 8 needs its runs in the study, and Figure 2 a guided run."""
        tables = ("table1", "table2", "audit", "audit_costs", "later")
        names = [f"{table}.{ending}" for table in tables for ending in ("md", "csv", "tex", "html")]
        figures = ["figure6", "figure7", "losses", "reconstructions"]
        figures += ["figure2"] if self.figure2_runs else []
        figures += ["figure8"] if self.study.report.figure8 else []
        names += [f"{figure}.{ending}" for figure in figures for ending in ("png", "pdf")]
        names += ["claims.md", "report.html", "results.parquet", "summary.txt"]
        return {name: self.report / name for name in names}

    def log(self, rule: str, *names) -> Path:
        return self.root / "logs" / rule / ("-".join(str(n) for n in names) + ".log" if names else "log.log")


def _number(shard) -> str:
    return shard if isinstance(shard, str) else f"{shard:05d}"


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
