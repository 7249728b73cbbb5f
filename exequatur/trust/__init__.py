"""The trust kernel: bytes in, values or errors out; no file, no socket, no clock."""
