package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// version and commit are stamped by the build (-ldflags "-X main.version=... -X main.commit=..."); empty means: take what the Go tool recorded.
var version, commit string

// protocolVersion is the version of docs/protocol.md this program speaks.
const protocolVersion = "wanpair/1"

// build says which program this is.
type build struct{ version, commit string }

// thisBuild returns what was stamped or recorded.
func thisBuild() build {
	b := build{version: version, commit: commit}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.version == "" {
			b.version = strings.Trim(info.Main.Version, "()")
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && b.commit == "" {
				b.commit = s.Value
			}
		}
	}
	if b.version == "" {
		b.version = "devel"
	}
	if b.commit == "" {
		b.commit = "unknown"
	}
	return b
}

// versionString is what peers and the status page are told.
func versionString() string { return thisBuild().version }

type versionCmd struct{}

// Run prints version, commit, Go and protocol.
func (versionCmd) Run(out output) error {
	b := thisBuild()
	_, err := fmt.Fprintf(out.stdout, "wanpair %s\ncommit   %s\ngo       %s %s/%s\nprotocol %s\n", b.version, b.commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, protocolVersion)
	return err
}
