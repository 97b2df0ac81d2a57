"""The command ``tiedconv``: parse, call, print."""
