"""The page at ``/docs``: the OpenAPI document for people. It loads nothing from elsewhere and runs no script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f4f4f4; }
pre { padding: .8rem; overflow-x: auto; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
h2 { margin-top: 2.5rem; }
"""


def page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])} As a document for programs: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(f"{method.upper()} {path}", operation))
    schemas = document.get("components", {}).get("schemas", {})
    parts += [_schema(name, schema) for name, schema in schemas.items()]
    return "\n".join(parts)


def _operation(title: str, operation: Mapping[str, Any]) -> str:
    lines = [f"<h2><code>{escape(title)}</code></h2><p>{escape(operation.get('description', ''))}</p>"]
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        lines.append(f"<p>Body: {_link(content)}</p>")
    lines.append("<table>")
    for code, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json", {}).get("schema", {})
        lines.append(f"<tr><td>{escape(code)}<td>{escape(response['description'])}<td>{_link(content)}")
    return "".join([*lines, "</table>"])


def _link(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return f"<a href='#{escape(name)}'>{escape(name)}</a>" if name else ""


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    said = escape(json.dumps(schema, indent=2))
    return f"<h2 id='{escape(name)}'>{escape(name)}</h2><pre>{said}</pre>"
