#!/usr/bin/env bash
# The passwords and tokens that the manifests name, made where they are missing and kept where they are there:
#
#   k8s/secrets.sh              all of them, once
#   k8s/secrets.sh api-token    one more client of the selector service: prints its token, which is stored nowhere
#   k8s/secrets.sh revoke       one client less: reads its token from standard input
#   k8s/secrets.sh ray-token    prints the token of the Ray cluster for jobs
#
# Values are random, go to kubectl by a pipe, and stand in no file, no argument and no log. NAMESPACE: ftmeta.
set -euo pipefail
umask 077
namespace=${NAMESPACE:-ftmeta}

kube() { kubectl --namespace "$namespace" "$@"; }
exists() { kube get secret "$1" >/dev/null 2>&1; }
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
hashed() { sha256sum | cut -d' ' -f1 | tr -d '\n'; }

# make NAME KEY.. : a secret with a random value for each key, unless there is one.
make() {
  local name=$1 key
  shift
  if exists "$name"; then
    echo "kept   $name"
    return
  fi
  {
    printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData:\n' "$name"
    for key in "$@"; do printf '  %s: "%s"\n' "$key" "$(random)"; done
  } | kube create --filename=- >/dev/null
  echo "made   $name"
}

# The hashes of the service's clients, one a line; and the same put in their place.
known_hashes() {
  exists api-tokens || return 0
  kube get secret api-tokens --output='jsonpath={.data.sha256}' | base64 --decode | tr ',' '\n'
  echo
}
keep_hashes() {
  printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: api-tokens}\nstringData: {sha256: "%s"}\n' \
    "$(grep . | paste -sd,)" | kube apply --filename=- >/dev/null
}
add_token() {
  local known
  known=$(known_hashes)
  printf '%s\n%s\n' "$known" "$(printf %s "$1" | hashed)" | keep_hashes
}

case ${1:-all} in
  all)
    make ray-auth auth_token
    make ray-service-auth auth_token
    make redis password
    make postgres password
    make mlflow password flask-secret-key
    if exists api-token-prometheus && exists api-tokens; then
      echo "kept   api-token-prometheus, api-tokens"
    else
      token=$(random)
      add_token "$token"
      printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: api-token-prometheus}\nstringData: {token: "%s"}\n' "$token" |
        kube apply --filename=- >/dev/null
      echo "made   api-token-prometheus, api-tokens"
    fi
    ;;
  api-token)
    token=$(random)
    add_token "$token"
    echo "$token"
    echo "It is valid once the service has started anew: see docs/operations.md." >&2
    ;;
  revoke)
    hash=$(tr -d ' \n' | hashed)
    known=$(known_hashes)
    if ! grep -qxF "$hash" <<<"$known"; then
      echo "no client has that token; nothing was changed" >&2
      exit 2
    fi
    grep -vxF "$hash" <<<"$known" | keep_hashes
    echo "It is refused once the service has started anew: see docs/operations.md." >&2
    ;;
  ray-token)
    kube get secret ray-auth --output='jsonpath={.data.auth_token}' | base64 --decode
    echo
    ;;
  *)
    echo "unknown word '$1'; give none, api-token, revoke or ray-token" >&2
    exit 2
    ;;
esac
