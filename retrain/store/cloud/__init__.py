"""Objects in Google Cloud Storage and in Azure Blob Storage, by obstore. Only this package imports obstore.

`store.CloudStore` is an `ObjectStore`; `retrain.store.open_store` opens it. What differs between the two services is in
`services.py`.
"""
