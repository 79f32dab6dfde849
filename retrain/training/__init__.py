"""The training loop and its parts: set-up, evaluation, stopping, optimizers, saved state, several processes.

`setup.set_up` makes a `Run` from a plan, `loop.run_loop` trains the run, and `result.make_result` returns its result.
The loop has no branch for a method. This package imports data, models and the packages below them.
"""
