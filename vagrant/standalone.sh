#!/bin/sh
# Installs the binary, its unit and the example pods, as a package would.
set -eu
/src/tests/tools/packages run
install -m 0755 /src/target/dist/longshore /usr/bin/longshore
install -D -m 0644 /src/systemd/longshore-run.service /usr/lib/systemd/system/longshore-run.service
install -D -m 0644 /src/systemd/modules-load.conf /usr/lib/modules-load.d/longshore.conf
install -D -m 0644 /src/systemd/sysctl.conf /usr/lib/sysctl.d/60-longshore.conf
install -d /etc/longshore/manifests
install -m 0644 /src/examples/03-init-copy.yaml /etc/longshore/manifests/
/src/tests/tools/pack-busybox /tmp/busybox.tar
systemctl daemon-reload
systemctl restart systemd-modules-load systemd-sysctl
systemctl enable --now longshore-run
until longshore ps >/dev/null 2>&1; do sleep 0.2; done
longshore import /tmp/busybox.tar
