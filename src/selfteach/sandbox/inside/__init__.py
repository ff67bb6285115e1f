"""What runs inside of a sandbox: of the standard library and this folder alone, never with the package around it."""
