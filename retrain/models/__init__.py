"""Networks by name, and what computing them costs: pure torch.

Others use `factory.build_network`, `factory.check_network` and `flops.count_flops`. Imports config and errors.
"""
