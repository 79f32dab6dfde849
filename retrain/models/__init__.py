"""Networks by name, their pretrained weights, and the cost of computing them.

Other packages use `factory.build_network`, `factory.check_network`, `pretrained.read_pretrained` and
`flops.count_flops`. This package imports store, recipe, records, config, utils and errors.
"""
