"""Live tuning against its rivals, on datasets that no bundled task uses: parts of jobs/report_live.py."""
