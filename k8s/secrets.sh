#!/usr/bin/env bash
# The passwords and tokens that the manifests name, made where they are missing and kept where they are there:
#
#   k8s/secrets.sh              all of them, once
#   k8s/secrets.sh api-token    one more client of the selector service: prints its token, which is stored nowhere
#   k8s/secrets.sh ray-token    prints the token of the Ray cluster for jobs
#
# Values are random, go to kubectl by a pipe, and stand in no file, no argument and no log. NAMESPACE: ftmeta.
set -euo pipefail
umask 077
namespace=${NAMESPACE:-ftmeta}

kube() { kubectl --namespace "$namespace" "$@"; }
exists() { kube get secret "$1" >/dev/null 2>&1; }
random() { openssl rand -hex 32 | tr -d '\n'; }
hashed() { openssl dgst -sha256 -r | cut -d' ' -f1 | tr -d '\n'; }

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

# add_token TOKEN : adds its hash to those that the service knows.
add_token() {
  local known=""
  if exists api-tokens; then
    known=$(kube get secret api-tokens --output='jsonpath={.data.sha256}' | base64 --decode)
  fi
  printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: api-tokens}\nstringData: {sha256: "%s"}\n' \
    "${known:+$known,}$(printf %s "$1" | hashed)" | kube apply --filename=- >/dev/null
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
  ray-token)
    kube get secret ray-auth --output='jsonpath={.data.auth_token}' | base64 --decode
    echo
    ;;
  *)
    echo "unknown word '$1'; give none, api-token or ray-token" >&2
    exit 2
    ;;
esac
