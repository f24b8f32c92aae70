package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// SSH is an OpenSSH server that lets in whoever holds the key made with it.
type SSH struct {
	place   Place
	process *Process
	port    int
	key     string
}

// StartSSH starts a server for the user we are. dir holds its keys.
func StartSSH(ctx context.Context, place Place, dir string) (*SSH, error) {
	path, err := Tool("sshd")
	if err != nil {
		return nil, err
	}
	keygen, err := Tool("ssh-keygen")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &SSH{place: place, key: filepath.Join(dir, "user")}
	if s.port, err = freePort(ctx, place); err != nil {
		return nil, err
	}
	for _, name := range []string{"host", "user"} {
		if _, err := Text(ctx, Place{}, exec.CommandContext(ctx, keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd locks its unprivileged half in
			return nil, err
		}
	}
	conf := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf("ListenAddress %s\nHostKey %s/host\nAuthorizedKeysFile %[2]s/user.pub\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nUseDNS no\nPrintMotd no\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
		place.HostPort(s.port), dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "-D", "-e", "-f", conf)
	if s.process, err = startProcess(place, "sshd", cmd, filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := s.process.waitReady(ctx, probeTCP(place, s.port)); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// options are those of every client: our key, nobody's configuration, no questions.
func (s *SSH) options() []string {
	return []string{"-F", "none", "-i", s.key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "IdentitiesOnly=yes", "-o", "Port=" + strconv.Itoa(s.port)}
}

// Cat reads a file of the server's machine by ssh, with its compression when asked for.
func (s *SSH) Cat(ctx context.Context, from Place, file string, compress bool) (Output, error) {
	path, err := Tool("ssh")
	if err != nil {
		return Output{}, err
	}
	args := s.options()
	if compress {
		args = append(args, "-C")
	}
	args = append(args, s.place.Addr.String(), "exec cat '"+file+"'")
	return Stream(ctx, from, exec.CommandContext(ctx, path, args...))
}

// Copy copies a file of the server's machine to a local one by scp.
func (s *SSH) Copy(ctx context.Context, from Place, file, into string) error {
	path, err := Tool("scp")
	if err != nil {
		return err
	}
	args := append([]string{"-q"}, s.options()...)
	args = append(args, s.place.Addr.String()+":"+file, into)
	_, err = Text(ctx, from, exec.CommandContext(ctx, path, args...))
	return err
}

// Stop ends the server.
func (s *SSH) Stop() error { return s.process.Stop(syscall.SIGTERM) }
