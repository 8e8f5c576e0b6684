"""The trust boundary: sandboxed processes that interpret image bytes, and the daemon's side of them."""
