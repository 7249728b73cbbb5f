"""The ways an action enters."""
