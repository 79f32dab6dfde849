"""The training loop and what it needs: set-up, evaluation, stopping, optimizers, saved state, several processes.

`setup.set_up` turns a plan into a `Run`; `loop.run_loop` trains it; `result.make_result` returns its result. The loop
has no branch for a method. Imports data, models and the packages below them.
"""
