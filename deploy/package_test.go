package deploy_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// standIn takes the daemon's place in packages under test: what is tested here is the package, and it must not matter what it holds.
const standIn = "#!/bin/sh\necho stand-in \"$@\"\n"

// build makes the packages of one kind and returns their directory and the one file in it.
func build(t *testing.T, kind, version, binary string) (dir, file string) {
	t.Helper()
	requireTool(t, "go")
	dir = t.TempDir()
	program := filepath.Join(t.TempDir(), "wanpair")
	write(t, program, binary, 0o755)
	run(t, "env", "VERSION="+version, "package/build", program, dir, kind)
	files, err := filepath.Glob(filepath.Join(dir, "*."+kind))
	if err != nil || len(files) != 1 {
		t.Fatalf("packages: %v, %v", files, err)
	}
	return dir, files[0]
}

// installed is what the packages bring, beyond the guides and samples: path and mode.
var installed = map[string]fs.FileMode{
	"etc/wanpair":                                                 fs.ModeDir | 0o750,
	"etc/wanpair/environment":                                     0o644,
	"usr/bin/wanpair":                                             0o755,
	"usr/lib/systemd/system/wanpair.service":                      0o644,
	"usr/lib/sysctl.d/60-wanpair.conf":                            0o644,
	"usr/lib/sysusers.d/wanpair.conf":                             0o644,
	"usr/share/doc/wanpair":                                       fs.ModeDir | 0o755,
	"usr/share/doc/wanpair/README.md":                             0o644,
	"usr/share/doc/wanpair/third-party-licenses.txt":              0o644,
	"usr/share/doc/wanpair/CHANGELOG.md":                          0o644,
	"usr/share/doc/wanpair/copyright":                             0o644,
	"usr/share/doc/wanpair/examples":                              fs.ModeDir | 0o755,
	"usr/share/doc/wanpair/examples/61-wanpair-gateway.conf":      0o644,
	"usr/share/doc/wanpair/examples/keepalived/gateway.conf":      0o644,
	"usr/share/doc/wanpair/examples/keepalived/router.conf":       0o644,
	"usr/share/doc/wanpair/examples/keepalived/check-wanpair.sh":  0o755,
	"usr/share/doc/wanpair/examples/policy-routing/wanpair-track": 0o755,
	"usr/share/man/man1/wanpair.1.gz":                             0o644,
	"usr/share/man/man5/wanpair.toml.5.gz":                        0o644,
	"usr/share/bash-completion/completions/wanpair":               0o644,
	"usr/share/zsh/vendor-completions/_wanpair":                   0o644,
	"usr/share/fish/vendor_completions.d/wanpair.fish":            0o644,
}

// documents returns what the packages bring of the guides and samples that are in the tree.
func documents(t *testing.T) []string {
	t.Helper()
	const doc = "usr/share/doc/wanpair/"
	var out []string
	for pattern, dir := range map[string]string{"../docs/deploy/*.md": doc, "../docs/*.md": doc, "samples/*.toml": doc + "examples/", "keepalived/*": doc + "examples/keepalived/", "policy-routing/*": doc + "examples/policy-routing/"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			out = append(out, dir+filepath.Base(f))
		}
	}
	return out
}

// accounts are the files that making or removing a user touches.
var accounts = []string{"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"}

// checkInstalled compares what is there after an installation with what should be.
func checkInstalled(t *testing.T, r *sysroot) {
	t.Helper()
	got := r.changes(t)
	for name, mode := range installed {
		e, ok := got[name]
		if !ok {
			t.Errorf("%s is missing", name)
		} else if e.mode != mode {
			t.Errorf("%s has mode %v, want %v", name, e.mode, mode)
		}
	}
	for _, name := range documents(t) {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	uid, gid := r.account(t, "wanpair")
	if uid == "" || uid == "0" {
		t.Fatalf("no user wanpair")
	}
	parents := map[string]bool{} // directories that this host may not have had
	for name := range installed {
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			parents[dir] = true
		}
	}
	known := func(name string) bool {
		_, ok := installed[name]
		ok = ok || parents[name]
		return ok || slices.Contains(accounts, name) || strings.HasPrefix(name, "usr/share/doc/wanpair/")
	}
	for name, e := range got {
		if !known(name) {
			t.Errorf("unexpected %s %v", name, e.mode)
		}
		wantGID := 0
		if name == "etc/wanpair" {
			wantGID, _ = strconv.Atoi(gid)
		}
		if strings.Contains(name, "wanpair") && (e.uid != 0 || e.gid != wantGID) {
			t.Errorf("%s belongs to %d:%d, want 0:%d", name, e.uid, e.gid, wantGID)
		}
		if e.mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s is set-id", name)
		}
	}
}

// configure writes what an operator would, and a piece of cache.
func configure(t *testing.T, r *sysroot) {
	t.Helper()
	r.do(t, "", "sh", "-ec", `
		echo '# mine' > /etc/wanpair/wanpair.toml
		echo secret > /etc/wanpair/private.key; chmod 600 /etc/wanpair/private.key; chown wanpair: /etc/wanpair/private.key
		echo GOMAXPROCS=2 >> /etc/wanpair/environment
		install -d -o wanpair -g wanpair -m 700 /var/lib/wanpair/epoch
		echo bytes > /var/lib/wanpair/epoch/1
		chown -R wanpair: /var/lib/wanpair`)
}

// checkKept: after removal the operator's files are as they were, and the package's are gone.
func checkKept(t *testing.T, r *sysroot, conffile string) {
	t.Helper()
	got := r.changes(t)
	for name, want := range map[string]string{
		"etc/wanpair/wanpair.toml": "# mine\n",
		"etc/wanpair/private.key":  "secret\n",
		"var/lib/wanpair/epoch/1":  "bytes\n",
		conffile:                   read(t, "systemd/environment") + "GOMAXPROCS=2\n",
	} {
		if e, ok := got[name]; !ok || e.content != want {
			t.Errorf("%s after removal: %q, want %q", name, e.content, want)
		}
	}
	// Where rpm is at home these belong to its package filesystem; here, without fish, they were made and nobody owns them.
	foreign := []string{"usr/share/fish", "usr/share/fish/vendor_completions.d"}
	for name, e := range got {
		if strings.HasPrefix(name, "usr/") && e.mode&fs.ModeCharDevice == 0 && !(e.mode.IsDir() && slices.Contains(foreign, name)) {
			t.Errorf("removal left %s", name)
		}
	}
}

func TestDebInstallRemovePurge(t *testing.T) {
	requireRoot(t)
	requireTool(t, "dpkg")
	dir, file := build(t, "deb", "1.0.0", standIn)
	r := newSysroot(t)

	out := r.do(t, dir, "dpkg", "--install", "/tmp/packages/"+filepath.Base(file))
	for _, want := range []string{"wanpair keygen", "not started", "systemctl enable --now wanpair"} {
		if !strings.Contains(out, want) {
			t.Errorf("installation does not say %q:\n%s", want, out)
		}
	}
	checkInstalled(t, r)
	if got := r.do(t, "", "/usr/bin/wanpair", "version"); got != "stand-in version\n" {
		t.Errorf("wanpair says %q", got)
	}
	if got := r.do(t, "", "dpkg-query", "--show", "--showformat=${Conffiles}", "wanpair"); !strings.Contains(got, "/etc/wanpair/environment") {
		t.Errorf("conffiles: %q", got)
	}
	if got := r.do(t, "", "dpkg", "--verify", "wanpair"); got != "" {
		t.Errorf("files differ from the package's sums:\n%s", got)
	}

	configure(t, r)
	r.do(t, "", "dpkg", "--remove", "wanpair")
	checkKept(t, r, "etc/wanpair/environment")

	// Purge after removal: the maintainer script runs without the package's files.
	r.do(t, "", "dpkg", "--purge", "wanpair")
	if left := names(r.changes(t)); len(left) > 0 {
		t.Errorf("purge left %v", left)
	}
}

func TestDebUpgradeKeepsConfiguration(t *testing.T) {
	requireRoot(t)
	requireTool(t, "dpkg")
	first, one := build(t, "deb", "1.0.0", standIn)
	second, two := build(t, "deb", "1.1.0", strings.Replace(standIn, "stand-in", "newer", 1))
	r := newSysroot(t)

	r.do(t, first, "dpkg", "--install", "/tmp/packages/"+filepath.Base(one))
	configure(t, r)
	r.do(t, "", "chmod", "0755", "/etc/wanpair")
	before, _ := r.account(t, "wanpair")
	out := r.do(t, second, "dpkg", "--install", "/tmp/packages/"+filepath.Base(two))
	if strings.Contains(out, "not started") {
		t.Errorf("an upgrade of a configured site gives the first steps:\n%s", out)
	}
	if got := r.do(t, "", "/usr/bin/wanpair", "version"); got != "newer version\n" {
		t.Errorf("wanpair says %q", got)
	}
	got := r.changes(t)
	if e := got["etc/wanpair/environment"]; !strings.HasSuffix(e.content, "GOMAXPROCS=2\n") {
		t.Errorf("environment after the upgrade: %q", e.content)
	}
	if mode := got["etc/wanpair"].mode.Perm(); mode != 0o755 {
		t.Errorf("the upgrade took back the operator's mode: %v", mode)
	}
	if after, _ := r.account(t, "wanpair"); after != before {
		t.Errorf("user number %s became %s", before, after)
	}

	// Purge in one step, from installed.
	r.do(t, "", "dpkg", "--purge", "wanpair")
	if left := names(r.changes(t)); len(left) > 0 {
		t.Errorf("purge left %v", left)
	}
}

func TestRpmInstallErase(t *testing.T) {
	requireRoot(t)
	requireTool(t, "rpm")
	dir, file := build(t, "rpm", "1.0.0", standIn)
	r := newSysroot(t)

	// Debian's rpm refuses to install without the flag; others do not know it.
	var debian []string
	if out := run(t, "rpm", "--help"); strings.Contains(out, "--force-debian") {
		debian = append(debian, "--force-debian")
	} else if _, err := os.Stat("/etc/debian_version"); err == nil {
		debian = append(debian, "--force-debian")
	}
	rpm := func(dir string, args ...string) string {
		return r.do(t, dir, append([]string{"rpm"}, append(debian, args...)...)...)
	}
	rpm(dir, "--nodeps", "--install", "/tmp/packages/"+filepath.Base(file))
	checkInstalled(t, r)
	configure(t, r)
	out := rpm("", "--erase", "wanpair")
	t.Log(out)
	checkKept(t, r, "etc/wanpair/environment.rpmsave")
}

func TestRpmContents(t *testing.T) {
	requireTool(t, "rpm")
	_, file := build(t, "rpm", "1.0.0", standIn)
	if out := run(t, "rpm", "--checksig", file); !strings.Contains(out, "digests OK") {
		t.Errorf("checksig: %s", out)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(run(t, "rpm", "-qlp", file)) {
		listed[strings.TrimSpace(strings.TrimPrefix(line, "/"))] = true
	}
	for _, name := range slices.AppendSeq(documents(t), maps.Keys(installed)) {
		if !listed[name] {
			t.Errorf("%s is not in the package", name)
		}
	}
	if got := run(t, "rpm", "-qp", "--configfiles", file); got != "/etc/wanpair/environment\n" {
		t.Errorf("configuration files: %q", got)
	}
	got := strings.Fields(run(t, "rpm", "-qp", "--queryformat", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}", file))
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	if diff := cmp.Diff([]string{"wanpair", "1.0.0", arch, "Apache-2.0"}, got); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

// TestPackagesAreReproducible: the same commit and binary give the same bytes, whenever and wherever they are packed.
func TestPackagesAreReproducible(t *testing.T) {
	for _, kind := range []string{"deb", "rpm"} {
		_, one := build(t, kind, "1.0.0", standIn)
		_, two := build(t, kind, "1.0.0", standIn)
		if read(t, one) != read(t, two) {
			t.Errorf("two builds of the %s differ", kind)
		}
	}
}
