#!/bin/sh
# Builds the release and compares it with a folder of recordings; see tests/conformance. Can be called from any
# folder. The status is 0 if everything that was compared agrees, and 1 otherwise, a wrong call and a failed build included.
set -eu

if [ "$#" -ne 1 ] || [ ! -d "$1" ]; then
    echo "usage: check-recordings.sh <folder of recordings>" >&2
    if [ "$#" -eq 1 ]; then
        echo "$1 is no folder" >&2
    fi
    exit 1
fi

package=$(cd "$(dirname "$0")/.." && pwd)
cargo build --quiet --release --manifest-path "$package/Cargo.toml" --bins --example check_recordings || exit 1
# The folder stays relative to where the caller is.
cargo run --quiet --release --manifest-path "$package/Cargo.toml" --example check_recordings -- "$1" || exit 1
