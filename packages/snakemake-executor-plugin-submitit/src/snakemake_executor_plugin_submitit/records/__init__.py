"""Files that drivers and nodes share: entries of jobs, records of attempts, what each job took."""
