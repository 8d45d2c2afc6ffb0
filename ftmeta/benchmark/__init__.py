"""The benchmark: optimizers replayed on a meta-dataset with a simulated clock, each task left out in turn.

`table.py` what is looked up, `replay.py` one optimizer on one table, `units.py` the parts that are computed apart,
`statistics.py` regrets and ranks, `report.py` and `plots.py` what people see; ftmeta/orchestrate/replays.py runs it.
"""
