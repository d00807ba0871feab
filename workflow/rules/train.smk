# Training: the one stage that may take several GPUs or nodes. It resumes from its own checkpoints, which are kept
# outside the declared output, because Snakemake deletes declared files before a job starts again.


rule train:
    input:
        tokens=training_tokens,
        generator=mixing_generator,
        parent=parent_weights,
        before=ancient(milestone_before),  # which a longer training leaves as it is
        start=start_file,
    output:
        weights=LAYOUT.weights("{run}", "{seed}"),
        losses=LAYOUT.losses("{run}", "{seed}"),
    log:
        LAYOUT.log("train", "{run}", "seed{seed}"),
    wildcard_constraints:
        run="|".join(STUDY.networks),
    conda:
        ENVIRONMENT
    threads: lambda w: 8 * max(hardware_of(w).gpus_per_node, 1)
    resources:
        runtime=lambda w: hardware_of(w).minutes,
        mem_mb=lambda w: 32000 * max(hardware_of(w).gpus_per_node, 1),
        nodes=lambda w: hardware_of(w).nodes,
        gpus_per_node=lambda w: hardware_of(w).gpus_per_node,
        max_timeouts=20,  # it resumes where its time ended
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.train(w.run, int(w.seed)),
        launch=launch,
    shell:
        "python -m {params.launch} train --study {params.study:q} --run {wildcards.run:q} --seed {wildcards.seed:q} "
        "> {log:q} 2>&1"


rule measure:
    input:
        manifest=LAYOUT.manifest,
        chosen=timed_cfg,
    output:
        LAYOUT.measures("{run}"),
    log:
        LAYOUT.log("measure", "{run}"),
    wildcard_constraints:
        run="|".join(STUDY.runs),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        runtime=30,
        mem_mb=32000,
        gpus_per_node=ONE_GPU,
    params:
        study=STUDY_FILE,
        settings=lambda w: DIGESTS.measure(w.run),
    shell:
        "python -m mixar measure --study {params.study:q} --run {wildcards.run:q} > {log:q} 2>&1"
