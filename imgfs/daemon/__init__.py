"""One mount: the only package that knows FUSE."""
