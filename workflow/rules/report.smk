# Tables, figures and the HTML page, from the Parquet rows of every stage.


rule report:
    input:
        manifest=LAYOUT.manifest,
        rows=LAYOUT.row_files(),
        own=LAYOUT.own_scores(),
        joined=LAYOUT.joined_row_files(),
        losses=[LAYOUT.losses(run, seed) for run, r in STUDY.runs.items() for seed in r.seeds],
        images=shown_images(),
        nearest=[LAYOUT.nearest(*names) for names in STUDY.drawings] if STUDY.scoring.copies else [],
        literature=str(LITERATURE),
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
        own=[path.parent.name for path in LAYOUT.own_scores()],  # so that a row that was deleted leaves the table
        settings=digest(plain(STUDY, exclude={"hardware"})),
    shell:
        "python -m mixar report --study {params.study:q} > {log:q} 2>&1"
