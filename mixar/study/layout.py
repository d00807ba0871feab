"""The path of every file of a study.

The Snakefile and the stages take all paths from here. No path is parsed for meaning.
"""

from __future__ import annotations

from pathlib import Path

from mixar.storage.listing import is_service
from mixar.study.sections import Study

JOINED_ROWS = ("score/sample", "score/reconstruct", "measure")  # what a report reads of a joined study


KEPT = "kept"  # subfolder of checkpoints: states that outlive the training


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

    @property
    def unreadable(self) -> Path:
        """The images that `ingest` could not use, a line each; missing where there was none."""
        return self.root / "ingest" / "unreadable.txt"

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

    def kept_shard(self, shard) -> Path:
        """A second name of the token shard, which Snakemake knows nothing of and so does not delete."""
        return self.root / "tokenize" / f"kept-{_number(shard)}.safetensors"

    def token_shards(self) -> list[Path]:
        return [self.token_shard(i) for i in range(self.study.data.num_shards)]

    @property
    def generator(self) -> Path:
        return self.root / "generator" / "generator.safetensors"

    def generated_shard(self, shard) -> Path:
        """MaskBit's tokens for the evaluation labels: tokens [n, N], labels [n], index [n]."""
        return self.root / "generate" / f"shard-{_number(shard)}.safetensors"

    def generated_for_sweep(self, num_images, shard) -> Path:
        """The same for the images of sweeps of so many images, which share no token with the evaluation's."""
        return self.root / "generate" / f"sweep-{num_images}" / f"shard-{_number(shard)}.safetensors"

    def weights(self, run: str, seed) -> Path:
        """EMA weights of a finished run, or of a milestone `RUN@EPOCH`."""
        return self.root / "train" / run / f"seed{seed}" / "weights.safetensors"

    def losses(self, run: str, seed) -> Path:
        return self.root / "train" / run / f"seed{seed}" / "losses.parquet"

    def checkpoints(self, stage: str, name: str, settings: str) -> Path:
        """In-flight state, never declared to Snakemake (which deletes declared outputs before a rerun)."""
        return self.root / "checkpoints" / f"{stage}-{name}-{settings}"

    def watch(self, run: str, seed) -> Path:
        """Folder of a training's metrics, TensorBoard events and previews. Undeclared, so that reruns keep it."""
        return self.root / "watch" / f"{run}-seed{seed}"

    def kept_states(self, run: str, seed: int, trajectory: str) -> list[Path]:
        """Files of states that outlive a run's training, whichever images it saw. trajectory: of its digests."""
        folder = self.checkpoints("train", f"{run}-seed{seed}", f"{trajectory}-*")
        return sorted(folder.parent.glob(f"{folder.name}/{KEPT}/*.pt"))

    def samples(self, run: str, seed, sampler: str, shard) -> Path:
        """Images as Parquet: index, label, image.bytes (PNG)."""
        return self.root / "sample" / run / f"seed{seed}" / sampler / f"shard-{_number(shard)}.parquet"

    def shown_samples(self, run: str) -> list[Path]:
        """What the report's sheets are cut from: a few shards of the run's first seed, spread over the labels."""
        count = self.study.evaluation.num_shards
        wanted = min(count, self.study.report.grid[0])
        numbers = {round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)}
        return [self.samples(*self.study.shown_drawing(run), i) for i in sorted(numbers)]

    def reconstruction(self, kind: str, shard) -> Path:
        return self.root / "reconstruct" / kind / f"shard-{_number(shard)}.parquet"

    def extractor(self) -> Path:
        return self.root / "extractor" / "extractor.safetensors"

    def features(self, images: Path) -> Path:
        """Features of one Parquet file of images, under the scores, in the same subfolders."""
        return self.root / "score" / "features" / images.relative_to(self.root)

    def sweep_features(self, run: str, sampler: str, shard) -> Path:
        """Features of a sweep's images at every scale: those of `features`, and the column `cfg`."""
        return self.root / "score" / "features" / "sweep" / run / sampler / f"shard-{_number(shard)}.parquet"

    def sweep_scores(self, run: str, sampler: str) -> Path:
        """Result rows of a sweep, one for each scale."""
        return self.root / "score" / "sweep" / run / f"{sampler}.parquet"

    def chosen_cfg(self, run: str, sampler: str) -> Path:
        """The guidance scale that a sweep chose, JSON."""
        return self.root / "score" / "sweep" / run / f"{sampler}.json"

    def reference_features(self, split: str) -> Path:
        """split: train, held_out, or a name of `reconstruction_split`."""
        return self.root / "score" / "reference" / f"{split}.parquet"

    def reconstruction_split(self, kind: str) -> str:
        """The reference of a tokenizer's reconstructions (kind: continuous or discrete): held_out; reconstructed where
        both have a protocol of their own, reconstructed_KIND where this one has."""
        if self.study.scoring.reconstruction_protocol(kind) is None:
            return "held_out"
        return "reconstructed" if isinstance(self.study.scoring.reconstructions, str) else f"reconstructed_{kind}"

    def own_features(self, name: str, shard) -> Path:
        """Features of images from outside the study, by the name of their row."""
        return self.root / "score" / "features" / "own" / name / f"shard-{_number(shard)}.parquet"

    def own_images(self, name: str) -> Path:
        """The images of that row: their number, hash and path."""
        return self.root / "score" / "own" / name / "images.json"

    def own_without_scores(self) -> list[Path]:
        """Row files that are missing although their images were scored."""
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

    def joined_row_files(self) -> list[Path]:
        """The result rows of joined studies that exist now."""
        folders = [Path(folder) / part for folder in self.study.report.joined for part in JOINED_ROWS]
        return sorted(path for folder in folders for path in folder.rglob("*.parquet") if not is_service(path.name))

    def nearest(self, run: str, seed, sampler: str) -> Path:
        """The nearest training image of each drawn image; see scoring/copies.py."""
        return self.root / "score" / "nearest" / run / f"seed{seed}-{sampler}.parquet"

    def measures(self, run: str) -> Path:
        return self.root / "measure" / f"{run}.parquet"

    def row_files(self) -> list[Path]:
        """Every file of result rows that the finished study has. Brought images have theirs: own_scores."""
        scores = [self.scores("sample", *names) for names in self.study.drawings]
        scores += [self.scores("reconstruct", kind) for kind in ("continuous", "discrete")]
        scores += [self.sweep_scores(*names) for names in self.study.sweeps]
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
        tables: tuple[str, ...] = ("table1", "table2", "audit", "audit_claims", "audit_costs", "later")
        tables += ("cfg_points",) if self.study.sweeps else ()
        tables += ("samplers",) if self.study.has_several_samplers else ()
        names = [f"{table}.{ending}" for table in tables for ending in ("md", "csv", "tex", "html")]
        figures = ["figure6", "figure7", "losses", "reconstructions"]
        figures += ["figure2"] if self.figure2_runs else []
        figures += ["figure8"] if self.study.report.figure8 else []
        figures += ["copies"] if self.study.scoring.copies else []
        figures += ["cfg"] if self.study.sweeps else []
        figures += ["tradeoff"] if self.study.has_several_samplers else []
        names += [f"{figure}.{ending}" for figure in figures for ending in ("png", "pdf")]
        names += ["claims.md", "report.html", "results.parquet", "summary.txt"]
        return {name: self.report / name for name in names}

    def log(self, rule: str, *names) -> Path:
        return self.root / "logs" / rule / ("-".join(str(n) for n in names) + ".log" if names else "log.log")


def _number(shard) -> str:
    return shard if isinstance(shard, str) else f"{shard:05d}"
