"""The report of jobs/report_metadata.py: findings.py computes, page.py writes Markdown, plots.py draws; and bundle.py,
which makes a collected meta-dataset one that ships with ftmeta."""
