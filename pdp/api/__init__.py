"""Wire to model and back, and status codes."""
