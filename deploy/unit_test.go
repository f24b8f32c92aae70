package deploy_test

import (
	"fmt"
	"os"
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

func TestUnitExposure(t *testing.T) {
	requireTool(t, "systemd-analyze")
	out := run(t, "systemd-analyze", "security", "--offline=yes", "--no-pager", unitFile)
	m := regexp.MustCompile(`Overall exposure level for wanpair\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level in:\n%s", out)
	}
	exposure, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	if exposure >= exposureLimit {
		t.Errorf("exposure %.1f, want below %.1f:\n%s", exposure, exposureLimit, out)
	}
}

// TestUnitVerifies lets systemd read the unit: a directive it does not know or a value it cannot read is a line of output.
func TestUnitVerifies(t *testing.T) {
	requireTool(t, "systemd-analyze")
	// The program and the manual page are not installed where the test runs: stand-ins for both, only for this reading.
	unit := read(t, unitFile)
	unit = strings.Replace(unit, "/usr/bin/wanpair", "/bin/true", 1)
	unit = regexp.MustCompile(`(?m)^Documentation=.*$`).ReplaceAllString(unit, "Documentation=https://localhost/")
	path := filepath.Join(t.TempDir(), "wanpair.service")
	write(t, path, unit, 0o644)
	out, err := try(t, "systemd-analyze", "verify", "--man=no", path)
	if err != nil || strings.Contains(out, "wanpair.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
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
		"RestrictNamespaces":      "user net",
		"StateDirectoryMode":      "0700",
		"RuntimeDirectoryMode":    "0750",
		"LogsDirectoryMode":       "0750",
		"LockPersonality":         "yes",
		"UMask":                   "0077",
		"PrivateTmp":              "yes",
		"PrivateDevices":          "yes",
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

var sysctlLine = regexp.MustCompile(`^net\.[a-z0-9_.]+ = [0-9]+$`)

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
			if _, err := os.Stat(path); err != nil && os.Geteuid() == 0 {
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
