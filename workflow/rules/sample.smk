# Images, their features, and the scores made of them.


rule sample:
    input:
        tokens=LAYOUT.generated_shard("{shard}"),
        networks=sampled_networks,
    output:
        LAYOUT.samples("{run}", "{seed}", "{sampler}", "{shard}"),
    log:
        LAYOUT.log("sample", "{run}", "seed{seed}", "{sampler}", "{shard}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.sample(w.run, int(w.seed), w.sampler),
    shell:
        "python -m mixar sample --study {params.study:q} --run {wildcards.run:q} --seed {wildcards.seed:q} "
        "--sampler {wildcards.sampler:q} --shard {wildcards.shard:q} > {log:q} 2>&1"


rule reconstruct:
    input:
        manifest=LAYOUT.manifest,
        tokenizer=LAYOUT.tokenizer("{kind}"),
    output:
        LAYOUT.reconstruction("{kind}", "{shard}"),
    log:
        LAYOUT.log("reconstruct", "{kind}", "{shard}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=30,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.reconstruct(w.kind),
    shell:
        "python -m mixar reconstruct --study {params.study:q} --kind {wildcards.kind:q} "
        "--shard {wildcards.shard:q} > {log:q} 2>&1"


rule features:
    input:
        images=LAYOUT.root / "{images}.parquet",
        extractor=LAYOUT.extractor(),
    output:
        LAYOUT.features(LAYOUT.root / "{images}.parquet"),
    log:
        LAYOUT.log("features", "{images}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=30,
        mem_mb=16000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.features(),
    shell:
        "python -m mixar features --study {params.study:q} --images {input.images:q} > {log:q} 2>&1"


rule features_reference:
    input:
        manifest=LAYOUT.manifest,
        extractor=LAYOUT.extractor(),
    output:
        LAYOUT.reference_features("{split}"),
    log:
        LAYOUT.log("features_reference", "{split}"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=240,
        mem_mb=64000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.features(),
    shell:
        "python -m mixar features --study {params.study:q} --reference {wildcards.split:q} > {log:q} 2>&1"


rule score:
    input:
        reference=expand(LAYOUT.reference_features("{split}"), split=("train", "held_out")),
        features=sample_features,
    output:
        LAYOUT.scores("sample", "{run}", "{seed}", "{sampler}"),
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
        reference=LAYOUT.reference_features(LAYOUT.reconstruction_split),
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
