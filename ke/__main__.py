"""`python -m ke` is the console script `ke`."""

from ke.cli.main import main

if __name__ == "__main__":
    main()
