"""The snakemake process: what it submits, how it follows jobs, what it decides."""
