"""Serve a task's champion over HTTP: an ASGI application on uvicorn that switches to each new champion.

`champion` follows the champion, `protocol` defines requests and responses, `app` routes them, `connection` limits the
connections, and `server` runs them. Needs the extra `serve` (starlette and uvicorn). Imports monitoring, inference and
the packages below them.
"""
