"""Pretraining of phi3-micro, the base model that ships with the package: corpus, tokenizer, tokens, training, card.

`python -m jobs.pretrain_micro` runs it; stages.py is the recipe, one file beside it for each step.
"""
