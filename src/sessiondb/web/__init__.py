"""Faces for HTTP: cookie, middleware, dependencies."""
