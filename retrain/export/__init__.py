"""Export a run's model to a folder: weights, configuration, model card, and ONNX or torch.export programs.

`folder.export_model` writes the folder; `parity` checks that the programs agree with the network on the test split.
Imports inference and the packages below it.
"""
