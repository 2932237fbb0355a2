"""An answer that can be seen: a page, a picture, a notebook cell, a live viewer.

Every view is of one `Scene`. Nothing here is loaded before somebody asks for it, and nothing here decides anything.
"""

from __future__ import annotations

from deepgmr.report.notebook import mixture_html, registration_html
from deepgmr.report.page import write_page
from deepgmr.report.picture import write_picture

__all__ = ["mixture_html", "registration_html", "write_page", "write_picture"]
