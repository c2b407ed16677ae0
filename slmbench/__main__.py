"""``python -m slmbench``."""

from slmbench.cli import main
from slmbench.system.processes import follow_host

if __name__ == "__main__":
    follow_host()
    main()
