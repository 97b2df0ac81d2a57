"""``python -m tiedconv``: the command, with the current folder among those that modules are looked for in."""

from .cli.main import main

if __name__ == "__main__":
    main()
