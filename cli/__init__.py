"""What a person types: the `atpar` command and the Python client."""
