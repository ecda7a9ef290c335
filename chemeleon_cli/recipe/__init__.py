"""Recipes: YAML in, a checked and frozen pydantic model out. Import `load` and `models` from their modules."""
