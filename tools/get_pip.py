"""Install pip as get-pip.py does, from the package index alone. tools/sanity.sh gives it to ansible-test.

ansible-test downloads its own copy from a host that not every network reaches. Runs under Python 2.7 too.
"""

import subprocess
import sys

subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
command = [sys.executable, "-m", "pip", "install", "-q"]
command.extend(word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel"))
sys.exit(subprocess.call(command))
