package report

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// ThisMachine describes where we run. The commit is the one given, else what the Go tool recorded in the binary.
func ThisMachine(commit string) Machine {
	m := Machine{Commit: commit, Go: runtime.Version(), Cores: runtime.NumCPU(), Kernel: "unknown", CPU: "unknown CPU"}
	if info, ok := debug.ReadBuildInfo(); ok && m.Commit == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				m.Commit = s.Value
			}
		}
	}
	if m.Commit == "" {
		m.Commit = "unknown"
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if model := field(string(info), "model name"); model != "" {
			m.CPU = model
		}
	}
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		if kib, err := strconv.ParseInt(strings.TrimSuffix(field(string(info), "MemTotal"), " kB"), 10, 64); err == nil {
			m.MemoryBytes = kib << 10
		}
	}
	return m
}

// field returns the value of the first line "name: value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
