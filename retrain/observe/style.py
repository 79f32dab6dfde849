"""The pages' one style sheet, and the content security policy that lets it in and keeps everything else out."""

import hashlib
from base64 import b64encode
from functools import cache
from importlib.resources import files


@cache
def sheet() -> str:
    """Return the style sheet that every page holds."""
    return files("retrain").joinpath("templates/report.css").read_text(encoding="utf-8")


@cache
def content_policy() -> str:
    """Return the policy: no script, no frame, no form, nothing from elsewhere; the style sheet is known by its hash."""
    digest = b64encode(hashlib.sha256(sheet().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
