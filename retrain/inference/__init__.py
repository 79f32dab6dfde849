"""Load a trained model and predict with it: in Python, from the command line, or behind a server.

`loading` finds a run's model, and `model.Model` predicts. `tables` reads lists of images, `batch` predicts them, and
`writing` writes the predictions. All decode and normalize images by the code that evaluated the model. Imports pipeline
and the packages below it.
"""
