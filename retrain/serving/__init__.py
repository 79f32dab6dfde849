"""Serve a task's champion over HTTP: an ASGI application on uvicorn, which follows promotions while it runs.

`champion` follows the champion, `protocol` is what requests and answers look like, `app` routes them, and `server` runs
them. Needs the extra `serve`, which brings starlette and uvicorn. Imports monitoring, inference and what is below them.
"""
