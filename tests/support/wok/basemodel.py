"""How the parts of a model become one: src/wok/basemodel.py."""

from __future__ import annotations


class BaseModel:
    """src/wok/basemodel.py, BaseModel: each function of a part becomes an attribute, such as `vm_clone` of VMModel."""

    def __init__(self, parts: list[object]) -> None:
        for part in parts:
            prefix = type(part).__name__.removesuffix("Model").lower()
            for name in dir(part):
                if not name.startswith("_") and callable(getattr(part, name)):
                    setattr(self, f"{prefix}_{name}", getattr(part, name))
