# SPDX-License-Identifier: MIT
"""Where the vendors' apt repositories are, and where public mirrors carry them: the only table of them.

A repository that a mirror lacks is not in its row. Mirrors are listed only with the paths that a public source shows.
"""

from __future__ import annotations

# docker: docker_ce_repo_url; toolkit and nvidia-docker2: nvidia_docker_repo_url of that stack.
UPSTREAM = {
    "docker": "https://download.docker.com/linux",
    "toolkit": "https://nvidia.github.io",
    "nvidia-docker2": "https://nvidia.github.io",
}
MIRRORS = {
    # Sources: https://developer.aliyun.com/mirror/docker-ce and Docker's own script (https://get.docker.com, --mirror).
    # Its copy of libnvidia-container was seen without a Release file in 2026, so without a signature.
    "aliyun": {"docker": "https://mirrors.aliyun.com/docker-ce/linux"},
    # Source: Docker's own script (https://get.docker.com, --mirror AzureChinaCloud).
    "azure-china": {"docker": "https://mirror.azure.cn/docker-ce/linux"},
    # Source: https://github.com/kaylorchen/ros2_base_config/blob/HEAD/install_docker.sh
    "huaweicloud": {"docker": "https://mirrors.huaweicloud.com/docker-ce/linux"},
    # Source: https://mirrors.cloud.tencent.com/help/docker-ce.html
    "tencent": {"docker": "https://mirrors.cloud.tencent.com/docker-ce/linux"},
    # Source: https://mirrors.tuna.tsinghua.edu.cn/help/docker-ce/
    "tuna": {"docker": "https://mirrors.tuna.tsinghua.edu.cn/docker-ce/linux"},
    # Sources: https://mirrors.ustc.edu.cn/help/docker-ce.html and help/libnvidia-container.html there. It has no
    # nvidia-docker and no nvidia-container-runtime, which the stack of 16.04 needs.
    "ustc": {"docker": "https://mirrors.ustc.edu.cn/docker-ce/linux", "toolkit": "https://mirrors.ustc.edu.cn"},
}


def url(mirror: str, repository: str) -> str:
    """Return the base URL of a repository: the mirror's where it carries it, else the vendor's.

    mirror: a key of MIRRORS, or empty. repository: a key of UPSTREAM; of any other name (the stack none), NVIDIA's.
    """
    return MIRRORS.get(mirror, {}).get(repository) or UPSTREAM.get(repository, UPSTREAM["toolkit"])


def lacking_note(mirror: str, stack: str, nvidia_url: str) -> str | None:
    """Return that a mirror does not carry the repository of a host's NVIDIA stack, or None."""
    if not mirror or stack not in UPSTREAM or stack in MIRRORS.get(mirror, {}) or nvidia_url != UPSTREAM[stack]:
        return None
    name = "NVIDIA's toolkit" if stack == "toolkit" else stack
    return f"the mirror {mirror} does not carry {name}, which stays at {nvidia_url}"
