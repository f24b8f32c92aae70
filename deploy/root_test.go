package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A sysroot is a throw-away copy of this machine's root file system: an overlay in a mount namespace of its own, so that packages are
// installed by the real package manager into a real system, and everything they changed lies in one directory to look at.
type sysroot struct {
	upper, work, merged string
}

func newSysroot(t *testing.T) *sysroot {
	t.Helper()
	requireRoot(t)
	requireTool(t, "unshare", "mount", "chroot")
	dir := t.TempDir()
	r := &sysroot{filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "merged")}
	for _, d := range []string{r.upper, r.work, r.merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// enter mounts the overlay for one command: own mounts, network and processes, so that nothing a script does reaches the machine.
const enter = `set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1,workdir=$2" "$3"
mount -t proc proc "$3/proc"
mount --bind /dev "$3/dev"
mount -t tmpfs tmpfs "$3/run"
mount -t tmpfs tmpfs "$3/tmp"
mkdir "$3/tmp/packages"
[ ! -d "$4" ] || mount --bind "$4" "$3/tmp/packages"
merged=$3
shift 4
exec chroot "$merged" "$@"`

// do runs a command inside, with dir at /tmp/packages, and returns its output; a failure ends the test.
func (r *sysroot) do(t *testing.T, dir string, command ...string) string {
	t.Helper()
	args := []string{"--mount", "--net", "--pid", "--fork", "--uts", "--ipc", "--propagation", "private", "sh", "-c", enter, "sh", r.upper, r.work, r.merged, dir}
	return run(t, "unshare", append(args, command...)...)
}

// An entry is one thing that differs from the machine's own root.
type entry struct {
	mode    fs.FileMode
	uid     int
	gid     int
	content string // of regular files
}

// bookkeeping are the places where package managers remember what they did, and the caches other packages refresh.
var bookkeeping = []string{
	"var/lib/dpkg/", "var/log/dpkg.log", "var/log/alternatives.log", "var/cache/man/", "var/cache/ldconfig/", "var/lib/rpm/", "root/.rpmdb/",
	"etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
}

// changes lists what inside differs from the machine: by path, without directories that are only copies of the machine's, and without the
// package managers' own records. Removed files of the machine are entries of mode fs.ModeCharDevice.
func (r *sysroot) changes(t *testing.T) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	err := filepath.WalkDir(r.upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == r.upper {
			return err
		}
		name := strings.TrimPrefix(path, r.upper+"/")
		if slices.ContainsFunc(bookkeeping, func(b string) bool {
			return name == strings.TrimSuffix(b, "/") || strings.HasSuffix(b, "/") && strings.HasPrefix(name, b)
		}) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := describe(t, path, info)
		lower := "/" + name
		if info, err := os.Lstat(lower); err == nil && e == describe(t, lower, info) {
			return nil
		}
		found[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func describe(t *testing.T, path string, info fs.FileInfo) entry {
	t.Helper()
	e := entry{mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.uid, e.gid = int(st.Uid), int(st.Gid)
	}
	if info.Mode().IsRegular() {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		e.content = string(data)
	}
	return e
}

// names returns the sorted paths of changes.
func names(changes map[string]entry) []string {
	var out []string
	for name := range changes {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// account returns the user and group number of a name in passwd, 0 when there is none.
func (r *sysroot) account(t *testing.T, name string) (uid, gid string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.upper, "etc/passwd"))
	if err != nil {
		return "", ""
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(line, ":"); f[0] == name && len(f) == 7 {
			return f[2], f[3]
		}
	}
	return "", ""
}
