# Images, their features, and the scores made of them.


rule sample:
    input:
        tokens=LAYOUT.generated_shard("{shard}"),
        networks=lambda w: networks_of(w.run, w.seed),
        extractor=LAYOUT.extractor(),
        chosen=chosen_cfg,
    output:
        # Kept where only the features are to be made again, or a job was cut.
        images=update(LAYOUT.samples("{run}", "{seed}", "{sampler}", "{shard}")),
        features=LAYOUT.features(LAYOUT.samples("{run}", "{seed}", "{sampler}", "{shard}")),
    log:
        LAYOUT.log("sample", "{run}", "seed{seed}", "{sampler}", "{shard}"),
    wildcard_constraints:
        run="|".join(STUDY.networks),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=240,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
        max_timeouts=20,  # it resumes where its time ended
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.sample(w.run, int(w.seed), w.sampler),
        features=DIGESTS.features(),
    shell:
        "python -m mixar sample --study {params.study:q} --run {wildcards.run:q} --seed {wildcards.seed:q} "
        "--sampler {wildcards.sampler:q} --shard {wildcards.shard:q} --with-features > {log:q} 2>&1"


# MaskBit's own images are its generated tokens, decoded: all of them are minutes of work.
rule sample_maskbit:
    input:
        tokens=[LAYOUT.generated_shard(shard) for shard in IMAGE_SHARDS],
        tokenizer=LAYOUT.tokenizer("discrete"),
        extractor=LAYOUT.extractor(),
    output:
        images=[update(path) for path in MASKBIT_IMAGES],
        features=[LAYOUT.features(path) for path in MASKBIT_IMAGES],
    log:
        LAYOUT.log("sample", MASKBIT),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=120,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
        max_timeouts=20,  # it resumes where its time ended
    params:
        study=STUDY_FILE,
        run=MASKBIT,
        settings=DIGESTS.sample(MASKBIT, *MASKBIT_DRAWING),
        features=DIGESTS.features(),
    shell:
        "python -m mixar sample --study {params.study:q} --run {params.run:q} --with-features > {log:q} 2>&1"


# Images of a guidance sweep: all scales in one job, of which only the features are kept.
rule sample_sweep:
    input:
        tokens=swept_tokens,
        networks=swept_networks,
        extractor=LAYOUT.extractor(),
    output:
        LAYOUT.sweep_features("{run}", "{sampler}", "{shard}"),
    log:
        LAYOUT.log("sample_sweep", "{run}", "{sampler}", "{shard}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=240,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
        max_timeouts=20,  # it resumes where its time ended
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.sweep(w.run, w.sampler),
    shell:
        "python -m mixar sample --study {params.study:q} --run {wildcards.run:q} --sampler {wildcards.sampler:q} "
        "--shard {wildcards.shard:q} --sweep > {log:q} 2>&1"


rule score_sweep:
    input:
        reference=LAYOUT.reference_features("train"),
        features=swept_features,
    output:
        rows=LAYOUT.sweep_scores("{run}", "{sampler}"),
        chosen=LAYOUT.chosen_cfg("{run}", "{sampler}"),
    log:
        LAYOUT.log("score_sweep", "{run}", "{sampler}"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=64000,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.score_sweep(),
    shell:
        "python -m mixar score --study {params.study:q} --run {wildcards.run:q} --sampler {wildcards.sampler:q} "
        "--sweep > {log:q} 2>&1"


rule reconstruct:
    input:
        manifest=LAYOUT.manifest,
        tokenizer=LAYOUT.tokenizer("{kind}"),
        extractor=LAYOUT.extractor(),
    output:
        images=[update(path) for path in RECONSTRUCTIONS],
        features=[LAYOUT.features(path) for path in RECONSTRUCTIONS],
    log:
        LAYOUT.log("reconstruct", "{kind}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=120,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
        max_timeouts=20,  # it resumes where its time ended
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.reconstruct(w.kind),
        features=DIGESTS.features(),
    shell:
        "python -m mixar reconstruct --study {params.study:q} --kind {wildcards.kind:q} --with-features "
        "> {log:q} 2>&1"


# All references in one job: those of held-out images alone are a minute of work.
rule features_reference:
    input:
        manifest=LAYOUT.manifest,
        extractor=LAYOUT.extractor(),
    output:
        # Kept where another one is added.
        [update(LAYOUT.reference_features(split)) for split in REFERENCES],
    log:
        LAYOUT.log("features_reference"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=240,
        mem_mb=64000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        references=[f"--reference={split}" for split in REFERENCES],
        settings=DIGESTS.features(),
    shell:
        "python -m mixar features --study {params.study:q} {params.references:q} > {log:q} 2>&1"


rule score:
    input:
        reference=[LAYOUT.reference_features(split) for split in SPLITS],
        features=sample_features,
        images=sample_images if STUDY.scoring.copies else [],
        chosen=chosen_cfg,
    output:
        LAYOUT.scores("sample", "{run}", "{seed}", "{sampler}"),
        *([LAYOUT.nearest("{run}", "{seed}", "{sampler}")] if STUDY.scoring.copies else []),
    log:
        LAYOUT.log("score", "{run}", "seed{seed}", "{sampler}"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=64000,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.score(),
    shell:
        "python -m mixar score --study {params.study:q} --run {wildcards.run:q} --seed {wildcards.seed:q} "
        "--sampler {wildcards.sampler:q} > {log:q} 2>&1"


rule score_reconstruction:
    input:
        reference=lambda w: LAYOUT.reference_features(LAYOUT.reconstruction_split(w.kind)),
        features=reconstruction_features,
    output:
        LAYOUT.scores("reconstruct", "{kind}"),
    log:
        LAYOUT.log("score_reconstruction", "{kind}"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=64000,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.score_reconstruction(),
    shell:
        "python -m mixar score --study {params.study:q} --kind {wildcards.kind:q} > {log:q} 2>&1"
