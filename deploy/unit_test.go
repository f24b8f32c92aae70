package deploy_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const unitFile = "systemd/wanpair.service"

// exposureLimit is what systemd-analyze security may say at most, on its scale from 0 (shut) to 10.
const exposureLimit = 2.5

func exposure(t *testing.T, unit string) float64 {
	t.Helper()
	requireTool(t, "systemd-analyze")
	out := run(t, "systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
	m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level in:\n%s", out)
	}
	level, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %.1f", unit, level)
	return level
}

func TestUnitExposure(t *testing.T) {
	for _, unit := range []string{unitFile, "policy-routing/wanpair-track.service"} {
		if level := exposure(t, unit); level >= exposureLimit {
			t.Errorf("%s: exposure %.1f, want below %.1f", unit, level, exposureLimit)
		}
	}
}

// TestForwardOnlyExposure: the drop-in for sites without interception takes more away, and gives nothing.
func TestForwardOnlyExposure(t *testing.T) {
	dir := t.TempDir()
	unit := filepath.Join(dir, "wanpair.service")
	write(t, unit, read(t, unitFile)+"\n"+read(t, "systemd/forward-only.conf"), 0o644) // later lines win, as in a drop-in
	if with, without := exposure(t, unit), exposure(t, unitFile); with >= without {
		t.Errorf("exposure %.1f with the drop-in, %.1f without", with, without)
	}
}

// TestUnitsVerify lets systemd read the units: a directive it does not know or a value it cannot read is a line of output.
func TestUnitsVerify(t *testing.T) {
	requireTool(t, "systemd-analyze")
	for _, file := range []string{unitFile, "policy-routing/wanpair-track.service"} {
		// The programs and the manual pages are not installed where the test runs: stand-ins for both, only for this reading.
		unit := regexp.MustCompile(`(?m)^(Exec\w+)=\S+`).ReplaceAllString(read(t, file), "$1=/bin/true")
		unit = regexp.MustCompile(`(?m)^Documentation=.*$`).ReplaceAllString(unit, "Documentation=https://localhost/")
		path := filepath.Join(t.TempDir(), filepath.Base(file))
		write(t, path, unit, 0o644)
		if out, err := try(t, "systemd-analyze", "verify", "--man=no", path); err != nil || strings.Contains(out, "wanpair") {
			t.Errorf("systemd-analyze verify %s: %v\n%s", file, err, out)
		}
	}
}

// directives returns the values of a unit file's directives, in order.
func directives(t *testing.T, text string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Errorf("no directive: %q", line)
		}
		found[key] = append(found[key], value)
	}
	return found
}

// TestUnitPromises holds the unit to what the guides say about it: lines that a later edit must not lose.
func TestUnitPromises(t *testing.T) {
	got := directives(t, read(t, unitFile))
	caps := []string{"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"}
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		if have := strings.Fields(strings.Join(got[key], " ")); !slices.Equal(have, caps) {
			t.Errorf("%s=%v, want %v", key, have, caps)
		}
	}
	for key, want := range map[string]string{
		"Type":                    "notify",
		"User":                    "wanpair",
		"Restart":                 "always",
		"StartLimitIntervalSec":   "0",
		"KillMode":                "mixed",
		"OOMPolicy":               "continue",
		"NoNewPrivileges":         "yes",
		"ProtectSystem":           "strict",
		"StateDirectory":          "wanpair",
		"MemoryDenyWriteExecute":  "yes",
		"ConditionPathExists":     "/etc/wanpair/wanpair.toml",
		"EnvironmentFile":         "-/etc/wanpair/environment",
		"RestrictAddressFamilies": "AF_INET AF_INET6 AF_NETLINK AF_UNIX",
		"SystemCallErrorNumber":   "EPERM",
		"SystemCallArchitectures": "native",
		"ProtectKernelTunables":   "yes",
		"WantedBy":                "multi-user.target",
		"ProtectKernelModules":    "yes",
		"RestrictSUIDSGID":        "yes",
		"RestrictNamespaces":      "yes",
		"StateDirectoryMode":      "0700",
		"RuntimeDirectoryMode":    "0750",
		"LogsDirectoryMode":       "0750",
		"LockPersonality":         "yes",
		"UMask":                   "0077",
		"PrivateTmp":              "yes",
		"PrivateDevices":          "",
		"DevicePolicy":            "closed",
		"DeviceAllow":             "/dev/net/tun rw",
		"ProtectHome":             "yes",
		"ProtectControlGroups":    "yes",
		"RestrictRealtime":        "yes",
		"ProtectClock":            "yes",
		"ProtectHostname":         "yes",
		"ProtectKernelLogs":       "yes",
		"ProtectProc":             "invisible",
		"RemoveIPC":               "yes",
		"DynamicUser":             "",
		"MemoryMax":               "",
		"ProcSubset":              "",
		"PrivateUsers":            "",
		"PrivateNetwork":          "",
		"IPAddressDeny":           "",
	} {
		if have := strings.Join(got[key], " "); have != want {
			t.Errorf("%s=%q, want %q", key, have, want)
		}
	}
	if got["WatchdogSec"] == nil {
		t.Error("no WatchdogSec: a hang would never be ended")
	}
}

// TestSysctlReasons: every setting names an existing kind of key, and has a comment above it that says why.
func TestSysctlReasons(t *testing.T) {
	files, err := filepath.Glob("systemd/*.sysctl.conf")
	if err != nil || len(files) != 2 {
		t.Fatalf("sysctl files: %v, %v", files, err)
	}
	for _, file := range files {
		for _, fault := range sysctlFaults(read(t, file)) {
			t.Errorf("%s: %s", file, fault)
		}
	}
}

var sysctlLine = regexp.MustCompile(`^net\.[a-z0-9_.*]+ = [0-9]+$`)

// sysctlFaults reads a sysctl.d file: settings stand in blocks, each under a comment.
func sysctlFaults(text string) []string {
	var faults []string
	reasoned, seen := false, map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		switch {
		case line == "":
			reasoned = false
		case line[0] == '#':
			reasoned = true
		case !sysctlLine.MatchString(line):
			faults = append(faults, fmt.Sprintf("line %d is no setting: %q", i+1, line))
		case !reasoned:
			faults = append(faults, fmt.Sprintf("line %d has no reason above it: %q", i+1, line))
		default:
			key, _, _ := strings.Cut(line, " ")
			if seen[key] {
				faults = append(faults, fmt.Sprintf("line %d sets %s again", i+1, key))
			}
			seen[key] = true
			path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
			if found, err := filepath.Glob(path); err != nil || len(found) == 0 {
				faults = append(faults, fmt.Sprintf("line %d: this kernel knows no %s", i+1, key))
			}
		}
	}
	return faults
}

func TestSysctlFaults(t *testing.T) {
	for text, want := range map[string]int{
		"# why\nnet.ipv4.ip_forward = 1\n":                             0,
		"net.ipv4.ip_forward = 1\n":                                    1,
		"# why\n\nnet.ipv4.ip_forward = 1\n":                           1,
		"# why\nnet.ipv4.ip_forward=1\n":                               1,
		"# why\nnet.ipv4.ip_forward = 1\nnet.ipv4.ip_forward = 0\n":    1,
		"# why\nnet.ipv4.ip_forward = 1\nnet.ipv4.tcp_fin_timeout = 9": 0,
	} {
		if got := sysctlFaults(text); len(got) != want {
			t.Errorf("%q: %v, want %d faults", text, got, want)
		}
	}
}
