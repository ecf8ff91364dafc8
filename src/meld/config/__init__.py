"""Configuration: the schema, presets, composing, checking, and building objects from it."""
