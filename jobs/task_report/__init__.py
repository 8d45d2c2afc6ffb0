"""The report of jobs/report_tasks.py: findings.py computes, page.py writes Markdown, plots.py draws."""
