# Images to tokens, and the networks that a study takes as given.
# Resources are those of the ImageNet-256 study on a cluster; profiles for smaller machines set their own.


rule ingest:
    input:
        # A folder's time says nothing of the files in it: the parameter `files` does.
        images=ancient(external(STUDY.data.path)),
        held_out=ancient(external(STUDY.data.held_out_path)),
        labels=ancient(external(STUDY.data.held_out_labels)),
    output:
        LAYOUT.manifest,
    log:
        LAYOUT.log("ingest"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=120,
        mem_mb=16000,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.ingest(),
        files=lambda w: stamp_of_data(),
    shell:
        "python -m mixar ingest --study {params.study:q} > {log:q} 2>&1"


rule tokenizer_discrete:
    input:
        manifest=LAYOUT.manifest,
        weights=external(STUDY.discrete.weights),
    output:
        LAYOUT.tokenizer("discrete"),
    log:
        LAYOUT.log("tokenizer", "discrete"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=gpu_unless(STUDY.discrete.weights),
    params:
        study=STUDY_FILE,
        kind="discrete",
        settings=DIGESTS.tokenizer("discrete"),
    shell:
        "python -m mixar tokenizer --study {params.study:q} --kind {params.kind:q} > {log:q} 2>&1"


# The same verb: with the continuous tokenizer come the mean and standard deviation of its latents.
use rule tokenizer_discrete as tokenizer_continuous with:
    input:
        manifest=LAYOUT.manifest,
        weights=external(STUDY.continuous.weights),
        statistics=external(STUDY.continuous.statistics),
    output:
        LAYOUT.tokenizer("continuous"),
        LAYOUT.statistics,
    log:
        LAYOUT.log("tokenizer", "continuous"),
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=gpu_unless(STUDY.continuous.weights, STUDY.continuous.scale or STUDY.continuous.statistics),
    params:
        study=STUDY_FILE,
        kind="continuous",
        settings=DIGESTS.tokenizer("continuous"),


rule tokenize:
    input:
        LAYOUT.manifest,
        LAYOUT.tokenizer("continuous"),
        LAYOUT.statistics,
        LAYOUT.tokenizer("discrete"),
    output:
        LAYOUT.token_shard("{shard}"),
    log:
        LAYOUT.log("tokenize", "{shard}"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.tokenize(),
    shell:
        "python -m mixar tokenize --study {params.study:q} --shard {wildcards.shard:q} > {log:q} 2>&1"


rule generator:
    input:
        tokens=LAYOUT.token_shards() if STUDY.generator.weights is None else [],
        weights=external(STUDY.generator.weights),
    output:
        LAYOUT.generator,
    log:
        LAYOUT.log("generator"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=gpu_unless(STUDY.generator.weights),
    params:
        study=STUDY_FILE,
        settings=DIGESTS.generator(),
    shell:
        "python -m mixar generator --study {params.study:q} > {log:q} 2>&1"


rule generate:
    input:
        generator=LAYOUT.generator,
        labels=LAYOUT.manifest if STUDY.evaluation.labels == "training" else [],
    output:
        LAYOUT.generated_shard("{shard}"),
    log:
        LAYOUT.log("generate", "{shard}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=DIGESTS.generate(),
    shell:
        "python -m mixar generate --study {params.study:q} --shard {wildcards.shard:q} > {log:q} 2>&1"


# The same for the images of sweeps.
rule generate_sweep:
    input:
        generator=LAYOUT.generator,
        labels=LAYOUT.manifest if STUDY.evaluation.labels == "training" else [],
    output:
        LAYOUT.generated_for_sweep("{images}", "{shard}"),
    log:
        LAYOUT.log("generate_sweep", "{images}", "{shard}"),
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.generate_for_sweep(int(w.images)),
    shell:
        "python -m mixar generate --study {params.study:q} --sweep {wildcards.images:q} --shard {wildcards.shard:q} "
        "> {log:q} 2>&1"


rule extractor:
    input:
        manifest=LAYOUT.manifest if STUDY.scoring.extractor.weights is None else [],
        weights=external(STUDY.scoring.extractor.weights),
    output:
        LAYOUT.extractor(),
    log:
        LAYOUT.log("extractor"),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=60,
        mem_mb=32000,
        gpus_per_node=gpu_unless(STUDY.scoring.extractor.weights),
    params:
        study=STUDY_FILE,
        settings=DIGESTS.extractor(),
    shell:
        "python -m mixar extractor --study {params.study:q} > {log:q} 2>&1"
