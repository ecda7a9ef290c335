"""What every training run shares: the services of the training loop, checkpoints, resuming, and metrics.csv.

Imports `models`. Begin with `trainer.py`; `checkpoint.py` writes and reads a model's folder.
"""
