#!/usr/bin/env bash
# Whether this system has an OpenSSL that programs can be linked with statically, as they are with the one that the package builds otherwise:
# prints the environment in which cargo takes it, a variable a line, and on the error output its version, or why there is none.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

none() { # why
    echo "no OpenSSL of the system is taken: $1" >&2
    exit 1
}

# The compiler names a library that it does not find as it was asked for it.
crypto=$(cc -print-file-name=libcrypto.a) ssl=$(cc -print-file-name=libssl.a)
folder=$(dirname "$(realpath "$crypto")")
[ -e "$crypto" ] && [ -e "$ssl" ] && [ "$folder" = "$(dirname "$(realpath "$ssl")")" ] ||
    none "libcrypto.a and libssl.a are missing (package libssl-dev)"
[ -e /usr/include/openssl/ssl.h ] || none "/usr/include/openssl/ssl.h is missing (package libssl-dev)"

# Libraries that were built with support for compression, for one, cannot be linked by themselves.
cat >"$out/probe.c" <<'C'
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error it is older than 3.0
#endif
int main(void) {
    if (OpenSSL_version_num() != OPENSSL_VERSION_NUMBER) {
        fputs("library and headers are of different versions\n", stderr);
        return 1;
    }
    if (!EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, NULL) || !SSL_CTX_new(TLS_client_method()) || !EVP_aes_256_ctr())
        return 1;
    return puts(OpenSSL_version(OPENSSL_VERSION)) < 0;
}
C
cc -o "$out/probe" "$out/probe.c" "$ssl" "$crypto" -ldl -lpthread >"$out/said" 2>&1 ||
    none "no program can be linked with it: $(grep -m 1 -E 'error|undefined' "$out/said" || tail -n 1 "$out/said")"
version=$("$out/probe" 2>"$out/said") || none "a program that is linked with it does not work: $(tail -n 1 "$out/said")"

echo "$version, of this system" >&2
printf '%s\n' OPENSSL_NO_VENDOR=1 OPENSSL_STATIC=1 "OPENSSL_LIB_DIR=$folder" OPENSSL_INCLUDE_DIR=/usr/include
