"""Live tuning: an optimizer of the benchmark drives real finetuning within a budget.

    loop.py asks, starts, waits and tells; worker.py is what a slot does; journal.py is what survives a kill;
    checkpoints.py says which checkpoints stay; ending.py chooses among the best and writes what is left.

Nothing here knows Ray: slots are a Protocol (work.py), and ftmeta/orchestrate/tuning.py has those of a cluster.
"""
