"""Rows to tables, figures, claims and one page. Figures go to files, so no screen and no notebook is ever needed."""

import os

# Before matplotlib is imported: jobs inherit a notebook's backend, which may not be installed here.
os.environ["MPLBACKEND"] = "Agg"
