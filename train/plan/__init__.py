"""What a training costs: tokens, steps, memory of a GPU, hours, disk and money, before it is paid for.

Nothing is downloaded and no weight is read. Rows come from packed data, a manifest or published sizes (`rows`), models
from their configurations (`models`), memory and FLOPs from a training step without values (train/step_facts.py), and
times from the last measurement on a GPU (`cards`).
"""
