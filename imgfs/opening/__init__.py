"""From a host file to a tree."""
