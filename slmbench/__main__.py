"""``python -m slmbench``."""

from slmbench.children import follow_host
from slmbench.cli import main

if __name__ == "__main__":
    follow_host()
    main()
