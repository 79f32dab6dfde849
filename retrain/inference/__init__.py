"""Load a trained model and predict with it: in Python, from the command line, or behind a server.

`loading` finds a run's model, and `model.Model` predicts. `tables` reads lists of images, `batch` predicts them, and
`writing` writes the predictions. Images are decoded and normalized by the code that evaluated the model. Imports
pipeline and the packages below it.
"""
