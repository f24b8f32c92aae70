package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestContainerFiles holds the container's files to what they refer to and to the unit.
func TestContainerFiles(t *testing.T) {
	containerfile, compose := read(t, "container/Containerfile"), read(t, "container/compose.yaml")

	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))
	if goVersion == nil || !strings.Contains(containerfile, "golang:"+goVersion[1]+"-") {
		t.Errorf("the image is not built with the Go of go.mod, %v", goVersion)
	}
	for _, m := range regexp.MustCompile(`(?m)^COPY ([a-z][^-\n]*) \./$`).FindAllStringSubmatch(containerfile, -1) {
		for name := range strings.FieldsSeq(m[1]) {
			if _, err := os.Stat("../" + name); err != nil {
				t.Error(err)
			}
		}
	}
	caps := strings.Fields(strings.Join(directives(t, read(t, unitFile))["CapabilityBoundingSet"], " "))
	added := regexp.MustCompile(`(?m)^    cap_add: \[(.*)\]$`).FindStringSubmatch(compose)
	if added == nil {
		t.Fatal("no cap_add")
	}
	got := strings.Split("CAP_"+strings.ReplaceAll(added[1], ", ", ",CAP_"), ",")
	if !slices.Equal(got, caps) {
		t.Errorf("compose.yaml adds %v, the unit %v", got, caps)
	}
	for _, want := range []string{"cap_drop: [ALL]", "no-new-privileges:true", "network_mode: host", "read_only: true", "dockerfile: deploy/container/Containerfile", "/dev/net/tun", "/etc/wanpair:ro"} {
		if !strings.Contains(compose, want) {
			t.Errorf("compose.yaml does not say %q", want)
		}
	}
}

// contain runs the daemon as compose.yaml does, by the one container runner that comes with the system: an image of nothing but the
// program, read-only, root with two capabilities, no new privileges, a TUN device, the configuration read-only and a volume for the cache.
const contain = `set -e
mount -t tmpfs tmpfs /dev -o mode=755,nosuid
mkdir /dev/net; mknod -m 600 /dev/net/tun c 10 200
for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do mknod -m 666 "/dev/${n%%:*}" c $(echo "${n#*:}" | tr : ' '); done
ln -s /proc/self/fd /dev/fd
drop=$(for c in AUDIT_CONTROL AUDIT_WRITE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_OWNER KILL LEASE LINUX_IMMUTABLE MKNOD NET_BROADCAST \
	NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_NICE SYS_PTRACE SYS_RESOURCE SYS_TTY_CONFIG; do printf CAP_%s, $c; done)
exec systemd-nspawn --quiet --register=no --keep-unit --directory="$1" --machine="$3" --read-only --no-new-privileges=yes \
	--drop-capability="${drop%,}" --capability=CAP_NET_ADMIN,CAP_NET_BIND_SERVICE --bind=/dev/net/tun --bind-ro="$2/etc:/etc/wanpair" --bind="$2/cache:/var/lib/wanpair" \
	--resolv-conf=off --timezone=off --link-journal=no --private-users=no /usr/bin/wanpair gateway -c /etc/wanpair/wanpair.toml`

func TestContainerIsEnough(t *testing.T) {
	requireTool(t, "systemd-nspawn", "go", "nft", "curl")
	l := newLab(t, "host")
	l.switchOn(t, "lan")
	l.plug(t, "host", "lan0", "lan", "10.1.0.1/16")
	l.exec(t, "host", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	program := filepath.Join(image, "usr/bin/wanpair")
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-o", program, "../cmd/wanpair")
	// The last ones are mount points that an engine makes by itself.
	for _, d := range []string{"image/etc/wanpair", "image/var/lib/wanpair", "image/usr/share/doc/wanpair", "volumes/etc", "volumes/cache", "image/dev", "image/proc", "image/sys", "image/run", "image/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, program, "keygen", "-o", filepath.Join(dir, "volumes/etc/private.key"))
	write(t, filepath.Join(dir, "volumes/etc/wanpair.toml"), rehearsalConfig, 0o644)

	d := l.start(t, "host", "unshare", "--mount", "--propagation", "private", "sh", "-c", contain, "sh", image, filepath.Join(dir, "volumes"), fmt.Sprintf("wanpair-%d", os.Getpid()))
	waitFor(t, "healthy in a container", settleTimeout, func() error {
		select {
		case <-d.done:
			t.Fatal("it has ended")
		default:
		}
		out, err := try(t, "ip", "netns", "exec", l.prefix+"host", "curl", "-fsS", "http://127.0.0.1:9460/healthz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	waitFor(t, "rules", settleTimeout, func() error {
		out, err := try(t, "ip", "netns", "exec", l.prefix+"host", "nft", "list", "table", "inet", "wanpair")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if strings.Contains(d.log.String(), "without a probe") {
		t.Error("the probe could not be made")
	}
	for pid := range strings.FieldsSeq(run(t, "ip", "netns", "pids", l.prefix+"host")) {
		status := read(t, "/proc/"+pid+"/status")
		if !strings.HasPrefix(status, "Name:\twanpair\n") {
			continue
		}
		if !strings.Contains(status, "\nCapEff:\t"+unitCapabilities+"\n") || !strings.Contains(status, "\nNoNewPrivs:\t1\n") {
			t.Errorf("it ran with more, or less, than it was to have:\n%s", status)
		}
		return
	}
	t.Error("its process was not found")
}
