"""Send ended runs and promotions to trackers: MLflow, Kubeflow's Model Registry and TensorBoard.

All figures are read from the ledger afterwards. A tracker that is unreachable or slow therefore never delays a run or a
promotion.
"""
