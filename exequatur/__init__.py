"""Exequatur: let it be executed. Nothing an agent does takes effect without it."""
