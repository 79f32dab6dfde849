"""Send ended runs and promotions to trackers: MLflow, Kubeflow's Model Registry and TensorBoard.

All figures are read from the ledger afterwards, so a tracker that is away or slow never delays a run or a promotion.
"""
