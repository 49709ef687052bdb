#!/bin/sh
# Runs a command with the URLs of the private servers: with-urls larder keys list
# They come from files, so that `docker inspect` shows no password.
set -eu
LARDER_DATABASE_URL="$(cat /run/passwords/postgresql/url)"
LARDER_REDIS_URL="$(cat /run/passwords/redis/url)"
if [ -n "${REDIS_SENTINELS:-}" ]; then # docker-compose.sentinel.yml: what comes after the password in the URL
  LARDER_REDIS_URL="$(echo "$LARDER_REDIS_URL" | sed 's/^redis:/sentinel:/; s/@[^@]*$//')@$REDIS_SENTINELS"
fi
export LARDER_DATABASE_URL LARDER_REDIS_URL
exec "$@"
