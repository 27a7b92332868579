#!/bin/sh
# What a service needs before its workers start: setup.sh SERVICE [COMMAND...]. Doing it again changes nothing.
#
# Brings the schema to the newest revision, runs each COMMAND of the service, and with DEMO_DATA=true adds demo data.
set -eu

service=$1
shift

flask --app "$service" db upgrade
for command in "$@"; do
  flask --app "$service" "$command"
done

case ${DEMO_DATA:-false} in
  true) ;;
  false) exit 0 ;;
  *) echo "DEMO_DATA: must be true or false" >&2; exit 1 ;;
esac

# everybody knows the passwords of the demo users, so they are for this machine only
case ${GATEWAY_PUBLISH_ADDRESS:-127.0.0.1} in
  127.* | ::1 | '[::1]') ;;
  *) echo "DEMO_DATA: must be false when GATEWAY_PUBLISH_ADDRESS is not a loopback address" >&2; exit 1 ;;
esac
flask --app "$service" seed-demo
