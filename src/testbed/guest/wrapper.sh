#!/bin/sh
# Runs the program with the libraries that came with it. It keeps its name, which says what its verbs are.
@VARIABLE@=@PROGRAM@
export @VARIABLE@
exec @HOME@/@LOADER@ --library-path @HOME@ @HOME@/@NAME@ "$@"
