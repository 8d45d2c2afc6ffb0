"""The selector as a service: recommendations over HTTP, on Ray Serve, with a page for people.

`web.create_app` is a plain FastAPI application, which tests and other ASGI servers can run; `app.build` wraps it in a
Ray Serve deployment; `local` starts that deployment on this machine or on a running cluster.
"""
