"""Send ended runs and promotions to trackers: MLflow, Kubeflow's Model Registry and TensorBoard.

All values are read from the ledger after the run. A tracker that is unreachable or slow therefore never delays a run or
a promotion.
"""
