"""Whose page has a browser send a request, as the browser tells."""

from __future__ import annotations

import cherrypy


def is_foreign() -> bool | None:
    """Whether it is one of another site, by Sec-Fetch-Site (W3C, Fetch Metadata); None where that is not said."""
    site = cherrypy.serving.request.headers.get("Sec-Fetch-Site")
    return None if site is None else site.lower() not in ("none", "same-origin")
