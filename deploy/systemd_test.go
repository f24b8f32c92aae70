package deploy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unitCapabilities is a set of the two the unit grants, as the kernel shows it: CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN bit 12
// (linux/capability.h).
const unitCapabilities = "0000000000001400"

// boot mounts the overlay as enter does and boots systemd in it, with a network of its own, until the system powers itself off.
const boot = `set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1,workdir=$2" "$3"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --directory="$3" --machine="$4" --boot systemd.unit=rehearsal.target`

// rehearsalTarget is all the system boots: the basics, and the script that plays the operator.
const rehearsalTarget = `[Unit]
Requires=basic.target rehearsal.service
After=basic.target
AllowIsolate=yes
`

const rehearsalService = `[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/rehearsal/play
ExecStopPost=/bin/systemctl --no-block poweroff
TimeoutStartSec=600
`

// play is the operator. Each line of results is a name and a value; what must come true is waited for, 60 s at most.
const play = `#!/bin/bash
exec 2>/rehearsal/trace
say() { echo "$*" >> /rehearsal/results; }
property() { systemctl show -P "$1" wanpair.service; }
until_true() { for _ in $(seq 600); do if eval "$2"; then say "$1" yes; return; fi; sleep 0.1; done; say "$1" no; }

# As udev would have it: there is none in here.
[ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }
chmod 666 /dev/net/tun

ip link add lan0 type veth peer name host0
ip link set lan0 up; ip link set host0 up; ip link set lo up
ip address add 10.1.0.1/16 dev lan0
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

mv /etc/wanpair/wanpair.toml /etc/wanpair/aside
systemctl start wanpair.service; say without_configuration "$(property ActiveState) $(property ConditionResult) $(property Result)"
mv /etc/wanpair/aside /etc/wanpair/wanpair.toml

systemctl start wanpair.service; say started "$? $(property ActiveState) $(property SubState)"
pid=$(property MainPID)
for field in Uid Gid CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do
    say "$field" $(sed -n "s/^$field:\t*//p" "/proc/$pid/status")
done
say state_directory "$(stat -c '%U %a' /var/lib/wanpair)"
until_true healthy 'curl -fsS -o /dev/null http://127.0.0.1:9460/healthz'
until_true rules 'nft list table inet wanpair >/dev/null'
until_true routing_rules 'ip rule | grep -q fwmark'
say tcp_listens $(ss -Hltnp | awk '/"wanpair"/ {print $4}' | sort)
say udp_tunnel $(ss -Hlunp | awk '/"wanpair"/ {print $4}' | grep :4600)
say probe_failed "$(journalctl -u wanpair.service | grep -c 'without a probe')"
systemctl reload wanpair.service; say reload "$? $(property ActiveState)"

kill -9 "$(property MainPID)"
until_true restarted_after_kill '[ "$(property NRestarts)" = 1 ] && [ "$(property ActiveState)" = active ]'
kill -STOP "$(property MainPID)"
until_true restarted_after_hang '[ "$(property NRestarts)" = 2 ] && [ "$(property ActiveState)" = active ]'
until_true rules_again 'nft list table inet wanpair >/dev/null'

systemctl stop wanpair.service; say stopped "$? $(property ActiveState) $(property Result) $(property ExecMainStatus)"
say rules_left "$(nft list tables | grep -c wanpair)"
say routing_rules_left "$(ip rule | grep -c fwmark)"
say processes_left "$(pgrep -c wanpair)"
journalctl --no-pager -o cat -u wanpair.service > /rehearsal/journal
`

const rehearsalConfig = `[site]
name = "ams"
private_key_file = "/etc/wanpair/private.key"
[cache]
dir = "/var/lib/wanpair"
size = "64MiB"
memory = "64MiB"
[[peer]]
name = "nyc"
public_keys = ["pGLn7uRofkEF4zABvp71jHqrT3rnF+b6PBtFdB7iW9E="]
endpoints = ["10.1.0.99:4600"]
subnets = ["10.2.0.0/16"]
[intercept]
interfaces = ["lan0"]
subnets = ["10.1.0.0/16"]
[limits]
flows = 100
memory = "64MiB"
`

// TestServiceUnderSystemd installs the package with the real daemon, boots systemd on it, and plays an operator's day: start, reload, a
// kill, a hang, stop. It is where the unit's restrictions meet the program they are for.
func TestServiceUnderSystemd(t *testing.T) {
	requireRoot(t)
	requireTool(t, "systemd-nspawn", "dpkg", "go", "ip", "nft", "ss", "curl")
	program := filepath.Join(t.TempDir(), "wanpair")
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-o", program, "../cmd/wanpair")
	dir, file := build(t, "deb", "1.0.0", read(t, program))
	r := newSysroot(t)
	r.do(t, dir, "dpkg", "--install", "/tmp/packages/"+filepath.Base(file))
	r.do(t, "", "wanpair", "keygen", "-o", "/etc/wanpair/private.key")
	r.do(t, "", "chown", "wanpair:", "/etc/wanpair/private.key")
	for name, text := range map[string]string{
		"etc/wanpair/wanpair.toml":             rehearsalConfig,
		"etc/systemd/system/rehearsal.target":  rehearsalTarget,
		"etc/systemd/system/rehearsal.service": rehearsalService,
		"rehearsal/play":                       play,
	} {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "rehearsal") {
			mode = 0o755
		}
		write(t, filepath.Join(r.upper, name), text, mode)
	}
	console := run(t, "unshare", "--mount", "--propagation", "private", "sh", "-c", boot, "sh", r.upper, r.work, r.merged, "wanpair-"+filepath.Base(t.TempDir()))

	results, err := os.ReadFile(filepath.Join(r.upper, "rehearsal/results"))
	if err != nil {
		t.Fatalf("the system did not boot: %v\n%s", err, console)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(results)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = value
	}
	uid, gid := r.account(t, "wanpair")
	all4 := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
	for name, want := range map[string]string{
		"without_configuration": "inactive no success",
		"started":               "0 active running",
		"Uid":                   all4(uid),
		"Gid":                   all4(gid),
		"CapPrm":                unitCapabilities,
		"CapEff":                unitCapabilities,
		"CapBnd":                unitCapabilities,
		"CapAmb":                unitCapabilities,
		"NoNewPrivs":            "1",
		"Seccomp":               "2",
		"state_directory":       "wanpair 700",
		"healthy":               "yes",
		"tcp_listens":           "127.0.0.1:4601 127.0.0.1:9460 [::1]:4601",
		"udp_tunnel":            "0.0.0.0:4600",
		"probe_failed":          "0",
		"rules":                 "yes",
		"routing_rules":         "yes",
		"reload":                "0 active",
		"restarted_after_kill":  "yes",
		"restarted_after_hang":  "yes",
		"rules_again":           "yes",
		"stopped":               "0 inactive success 0",
		"rules_left":            "0",
		"routing_rules_left":    "0",
		"processes_left":        "0",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if t.Failed() {
		for _, name := range []string{"trace", "journal"} {
			text, _ := os.ReadFile(filepath.Join(r.upper, "rehearsal", name))
			t.Logf("%s:\n%s", name, text)
		}
	}
}
