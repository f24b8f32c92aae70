package server

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrMissing is wrapped by every error about a program that is not installed; the text names the Debian package.
var ErrMissing = errors.New("program is not installed")

// debianPackage names, for each program the benchmark runs, the Debian package that holds it.
var debianPackage = map[string]string{
	"apt-get":         "apt",
	"curl":            "curl",
	"dpkg-deb":        "dpkg",
	"dwebp":           "webp",
	"ganesha.nfsd":    "nfs-ganesha nfs-ganesha-vfs",
	"git":             "git",
	"go":              "golang-go (1.26 or newer)",
	"h2load":          "nghttp2-client",
	"initdb":          "postgresql",
	"kcptun-client":   "kcptun",
	"kcptun-server":   "kcptun",
	"nfs-cat":         "libnfs-utils",
	"nfs-cp":          "libnfs-utils",
	"nfs-ls":          "libnfs-utils",
	"nginx":           "nginx-light",
	"npm":             "npm",
	"pg_basebackup":   "postgresql-client",
	"pg_ctl":          "postgresql",
	"pg_dump":         "postgresql-client",
	"pg_verifybackup": "postgresql",
	"pgbench":         "postgresql",
	"postgres":        "postgresql",
	"psql":            "postgresql-client",
	"rpcbind":         "rpcbind",
	"rsync":           "rsync",
	"scp":             "openssh-client",
	"smbclient":       "smbclient",
	"smbd":            "samba",
	"ssh":             "openssh-client",
	"ssh-keygen":      "openssh-client",
	"sshd":            "openssh-server",
	"unshare":         "util-linux",
	"wrk":             "wrk",
	"xdelta3":         "xdelta3",
	"zstd":            "zstd",
}

// systemDirs are looked into after PATH: daemons live there, and PATH of an ordinary user leaves them out.
var systemDirs = []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/postgresql/*/bin"}

// Tool returns the path of a program. An error wraps ErrMissing and says which Debian package to install.
func Tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range systemDirs {
		found, _ := filepath.Glob(filepath.Join(dir, name)) // the patterns are constants: no error is possible
		slices.Sort(found)
		slices.Reverse(found) // the newest PostgreSQL first
		for _, path := range found {
			if _, err := exec.LookPath(path); err == nil {
				return path, nil
			}
		}
	}
	if packages := debianPackage[name]; packages != "" {
		return "", fmt.Errorf("%w: %s (Debian package %s)", ErrMissing, name, packages)
	}
	return "", fmt.Errorf("%w: %s", ErrMissing, name)
}

// Require looks up several programs and joins what is missing into one error.
func Require(names ...string) error {
	var missing []error
	for _, name := range names {
		if _, err := Tool(name); err != nil {
			missing = append(missing, err)
		}
	}
	return errors.Join(missing...)
}

// Packages lists, for a message to the user, the Debian packages that hold the named programs.
func Packages(names ...string) []string {
	var packages []string
	for _, name := range names {
		packages = append(packages, strings.Fields(debianPackage[name])...)
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}
