# Tables, figures and the HTML page, from the Parquet rows of every stage.


rule report:
    input:
        manifest=LAYOUT.manifest,
        scores=all_scores(),
        own=LAYOUT.own_scores(),
        measures=[LAYOUT.measures(run) for run in STUDY.runs],
        losses=[LAYOUT.losses(run, seed) for run, r in STUDY.runs.items() for seed in r.seeds],
        images=shown_images(),
        literature=assets.RESOURCES / "literature.yaml",
    output:
        report_outputs(),
    log:
        LAYOUT.log("report"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        runtime=30,
        mem_mb=16000,
    params:
        study=STUDY_FILE,
        settings=digest(plain(STUDY, exclude={"hardware"})),
    shell:
        "python -m mixar report --study {params.study:q} > {log:q} 2>&1"
