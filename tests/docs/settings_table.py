"""The table of settings, made from ``app.settings``."""

from typing import Any

from pydantic.fields import FieldInfo

from app.settings import PREFIX, Settings
from tests.docs.tables import markdown


def settings_table() -> str:
    """A line for each setting: variable, default, allowed values, meaning. The variable's name ends in its unit."""
    return markdown(
        ("variable", "default", "allowed", "meaning"),
        [
            (
                f"`{PREFIX}{name.upper()}`",
                f"`{field.default}`" if field.default != "" else "none",
                _allowed(field),
                field.description or "",
            )
            for name, field in Settings.model_fields.items()
        ],
    )


def _allowed(field: FieldInfo) -> str:
    least, most = _bound(field, "ge"), _bound(field, "le")
    return "" if least is None or most is None else f"{least} to {most}"


def _bound(field: FieldInfo, kind: str) -> Any:
    return next((found for rule in field.metadata if (found := getattr(rule, kind, None)) is not None), None)
