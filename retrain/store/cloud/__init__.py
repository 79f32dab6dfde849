"""Objects in Google Cloud Storage and in Azure Blob Storage, through obstore. Only this package imports obstore.

`store.CloudStore` is an `ObjectStore`, and `retrain.store.open_store` opens it. `services.py` has the differences
between the two services.
"""
