#!/usr/bin/env bash
# Fetch what the build needs into a folder, without root: headers of ONNX Runtime, nlohmann-json and stb from Debian,
# and ONNX Runtime's library from the Python package that is installed.
#
#   fetch_deps.sh FOLDER [PYTHON]
#
# Where the machine's own Debian is too old for ONNX Runtime's headers, a newer suite of the same mirror has them: they
# are unpacked, not installed.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=${2:-python3}
test -e "$folder/.fetched" && exit 0

apt=(apt-get -qq -o "Dir::State=$folder/apt" -o "Dir::Cache=$folder/apt" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::Etc::SourceList=$folder/apt/sources.list" -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial"

# The mirror of the machine's main component, whatever it is called here.
read -r mirror own < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' | head -1)
test -n "${mirror:-}" || { echo "apt knows no Debian mirror on this machine: name one in its sources" >&2; exit 5; }
for suite in "$own" trixie sid; do
  echo "deb $mirror $suite main" > "$folder/apt/sources.list"
  if "${apt[@]}" update && apt_version=$("${apt[@]}" --print-uris download libonnxruntime-dev 2>/dev/null); then break; fi
done
test -n "${apt_version:-}" || { echo "$mirror has no libonnxruntime-dev: set ONNXRUNTIME_ROOT by hand" >&2; exit 5; }
(
  cd "$folder/apt"
  "${apt[@]}" download libonnxruntime-dev nlohmann-json3-dev libstb-dev
  for package in ./*.deb; do dpkg -x "$package" "$folder"; done
)

# The package has the library under its full version alone; the loader looks for the name inside of it.
capi=$("$python" -c 'import pathlib, onnxruntime; print(pathlib.Path(onnxruntime.__file__).parent / "capi")')
mkdir -p "$folder/lib"
ln -sf "$capi"/libonnxruntime*.so* "$folder/lib/"
ln -sf "$(basename "$capi"/libonnxruntime.so.1.*)" "$folder/lib/libonnxruntime.so.1"
ln -sf libonnxruntime.so.1 "$folder/lib/libonnxruntime.so"
rm -rf "$folder/apt"
touch "$folder/.fetched"
