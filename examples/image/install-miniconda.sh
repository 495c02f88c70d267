#!/bin/sh
# Installs Miniconda into /opt/conda, with an environment "main", readable for everybody. Runs while the image is built;
# the variables are the Dockerfile's arguments.
set -eu

fail() {
	printf 'install-miniconda: %s\n' "$*" >&2
	exit 1
}

installer=/tmp/installer/$MINICONDA
if [ ! -f "$installer" ]; then
	if ! command -v curl >/dev/null; then
		apt-get update -q
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ca-certificates curl
	fi
	curl --fail --silent --show-error --location --retry 3 --output "$installer" "$MINICONDA_URL/$MINICONDA" ||
		fail "$MINICONDA_URL/$MINICONDA cannot be downloaded: put the file into the Dockerfile's directory, or name a mirror" \
			"(MINICONDA_URL)"
fi
# Check the installer, downloaded or copied.
printf '%s  %s\n' "$MINICONDA_SHA256" "$installer" | sha256sum --check --status ||
	fail "$MINICONDA has sha256 $(sha256sum "$installer" | cut -d ' ' -f 1), expected MINICONDA_SHA256"

bash "$installer" -b -p /opt/conda
# Also for people who install more in a container. Anaconda's own channels ask for consent to their terms.
printf 'channels:\n  - %s\n' "$CONDA_CHANNEL" >/opt/conda/.condarc
/opt/conda/bin/conda create --yes --quiet --override-channels --channel "$CONDA_CHANNEL" --name main \
	"python=$PYTHON_VERSION" pip
/opt/conda/bin/conda clean --yes --quiet --all --force-pkgs-dirs
# Containers run under any uid.
chmod -R a+rX,go-w /opt/conda
