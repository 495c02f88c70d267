"""The callback preload: what each task needs is loaded before the first one starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

# Ansible's filters, whose import starts a program; its tests; and what a login takes.
WANTED = ["ansible.plugins.filter.core", "ansible.plugins.test.core", "ansible.plugins.connection.ssh"]
PROGRAM = f"""
import gc, json, sys
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
from ansible_collections.gpuprov.gpuprov.plugins.callback import preload
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options
def found():
    return [[one for one in {WANTED} if any(name.startswith(one) for name in sys.modules)], gc.get_freeze_count()]
callback, before = preload.CallbackModule(), found()
callback.v2_playbook_on_start(None)
print(json.dumps([before, found(), open("/proc/self/timerslack_ns").read()]))
"""


def test_plugins_are_loaded_when_a_playbook_starts_and_no_longer_looked_through_and_timers_may_be_late() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, text=True, capture_output=True, check=True)
    (loaded_before, frozen_before), (loaded, frozen), timer_slack = json.loads(done.stdout)
    assert (loaded_before, loaded) == ([], WANTED)
    assert frozen > frozen_before + 1000
    assert int(timer_slack) == 5_000_000
