#!/bin/sh
# Decides what the program runs with. Where it does not run with the libraries of this image, a script takes its name that
# runs it with those that came with it. May be called again.
program=@PROGRAM@
home=@HOME@

if said=$(timeout 60 "$program" --help 2>&1 >/dev/null); then
    exit 0
fi
echo "allocdb guest: $program does not run with the libraries of this image: $said"
if ! "$home/@LOADER@" --library-path "$home" "$program" --help >/dev/null; then
    echo "allocdb guest: $program does not run with the libraries in $home either" >&2
    exit 1
fi
# Until the last step the program is what it was.
cp "$program" "$home/@NAME@" && cp "$home/wrapper" "$program.new" && sync && mv "$program.new" "$program"
