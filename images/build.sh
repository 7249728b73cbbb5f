#!/bin/sh
# Make an installation of Exequatur: `build.sh SOURCE TARGET`. The Dockerfile runs it, and so does its test.
#
# Rules: what comes from outside is locked by hash, as wheels alone, so that nothing foreign runs while it is installed;
# this project's own wheel is made and installed without an index; the same sources make the same bytes.
set -eu
umask 022
source=$1 target=$2
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
: "${SOURCE_DATE_EPOCH:=1767225600}"
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q --require-hashes --no-deps --only-binary :all: -r "$source/requirements/build.txt"

# The installation itself has no pip: the tools' own installs into it.
python3 -m venv --without-pip "$target"
install() { "$tools/venv/bin/pip" --python "$target/bin/python" install -q --no-deps --no-compile "$@"; }
install --require-hashes --only-binary :all: -r "$source/requirements/image.txt"

cp -R "$source" "$tools/source" # a build leaves no trace in the sources
(cd "$tools/source" && "$tools/venv/bin/hatchling" build -t wheel -d "$tools/wheel")
install --no-index --find-links "$tools/wheel" exequatur
"$tools/venv/bin/pip" --python "$target/bin/python" check

# By content and never looked at again: the file system is read-only, and times are not the same in two builds.
"$target/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$target/lib"

cc -std=c11 -O2 -static -s -Wall -Wextra -Wpedantic -Werror "$source/sidecar/shim/exequatur-mcp.c" \
  -o "$target/bin/exequatur-mcp"

mkdir -p "$target/share/exequatur"
"$tools/venv/bin/cyclonedx-py" environment --output-reproducible --sv 1.6 --of JSON \
  --pyproject "$source/pyproject.toml" -o "$target/share/exequatur/sbom.cdx.json" "$target/bin/python"
