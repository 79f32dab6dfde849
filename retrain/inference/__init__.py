"""Load a trained model and predict with it: in Python, from the command line, or behind a server.

`loading` finds a run's model, `model.Model` predicts, and `tables` reads and writes lists of images. All of them decode
and normalise images by the code that evaluated the model. Imports pipeline and what is below it.
"""
