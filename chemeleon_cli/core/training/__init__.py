"""What every training run shares: the loop's services, checkpoints, resuming, the file of metrics.

Imports `models`. Begin with `trainer.py`; `checkpoint.py` writes and reads a model's folder.
"""
