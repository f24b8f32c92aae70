package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Samba is a Samba server with one share, open to guests, without signing and encryption.
type Samba struct {
	place   Place
	process *Process
	port    int
	conf    string
}

// StartSamba shares root under the name "data". It needs root. dir is for the server's own files.
func StartSamba(ctx context.Context, place Place, dir, root string) (*Samba, error) {
	path, err := Tool("smbd")
	if err != nil {
		return nil, err
	}
	s := &Samba{place: place, conf: filepath.Join(dir, "smb.conf")}
	for _, sub := range []string{"lock", "state", "cache", "private", "pid", "ncalrpc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if s.port, err = freePort(ctx, place); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(`[global]
  workgroup = BENCH
  smb ports = %d
  bind interfaces only = yes
  interfaces = %s lo
  disable netbios = yes
  server signing = disabled
  client signing = disabled
  smb encrypt = off
  map to guest = Bad User
  guest account = root
  load printers = no
  printcap name = /dev/null
  disable spoolss = yes
  log file = %[3]s/smbd.log
  lock directory = %[3]s/lock
  state directory = %[3]s/state
  cache directory = %[3]s/cache
  private dir = %[3]s/private
  pid directory = %[3]s/pid
  ncalrpc dir = %[3]s/ncalrpc
[data]
  path = %[4]s
  read only = yes
  guest ok = yes
  force user = root
`, s.port, place.Addr, dir, root)
	if err := os.WriteFile(s.conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "-F", "--no-process-group", "-s", s.conf)
	if s.process, err = startProcess(place, "smbd", cmd, filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := s.process.waitReady(ctx, probeTCP(place, s.port)); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Get copies files of the share into a local directory by one smbclient session; a mask such as "*" takes many.
func (s *Samba) Get(ctx context.Context, from Place, mask, into string) error {
	path, err := Tool("smbclient")
	if err != nil {
		return err
	}
	folder, base := filepath.Split(mask)
	commands := []string{"prompt off", "recurse off", "lcd " + into}
	if folder != "" {
		commands = append(commands, "cd "+folder)
	}
	commands = append(commands, "mget "+base)
	cmd := exec.CommandContext(ctx, path, "-s", s.conf, "-N", "-p", strconv.Itoa(s.port), "//"+s.place.Addr.String()+"/data", "-c", strings.Join(commands, "; "))
	_, err = Text(ctx, from, cmd)
	return err
}

// Stop ends the server and its sessions.
func (s *Samba) Stop() error { return s.process.Stop(syscall.SIGTERM) }

// NFS is an NFSv3 server (ganesha) with one export; the kernel's own server is not needed, nor a client in the kernel.
type NFS struct {
	place      Place
	process    *Process
	port       int
	mountPort  int
	exportRoot string
}

// StartNFS exports root, read only. It needs root. dir is for the server's own files.
func StartNFS(ctx context.Context, place Place, dir, root string) (*NFS, error) {
	ganesha, err := Tool("ganesha.nfsd")
	if err != nil {
		return nil, err
	}
	rpcbind, err := Tool("rpcbind")
	if err != nil {
		return nil, err
	}
	unshare, err := Tool("unshare")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	n := &NFS{place: place, exportRoot: root}
	for _, port := range []*int{&n.port, &n.mountPort} {
		if *port, err = freePort(ctx, place); err != nil {
			return nil, err
		}
	}
	conf := filepath.Join(dir, "ganesha.conf")
	text := fmt.Sprintf(`NFS_Core_Param { NFS_Port = %d; MNT_Port = %d; mount_path_pseudo = true; Enable_NLM = false; Enable_RQUOTA = false; Protocols = 3; }
NFSv4 { Graceless = true; RecoveryRoot = %s; }
EXPORT {
  Export_Id = 1; Path = %s; Pseudo = /data; Access_Type = RO; Squash = No_Root_Squash; Protocols = 3; Transports = TCP; SecType = sys;
  FSAL { Name = VFS; }
}
LOG { Default_Log_Level = EVENT; }
`, n.port, n.mountPort, dir, root)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	// Both programs insist on places below /run, so they get one of their own.
	script := `mount -t tmpfs none /run && mkdir -p /run/ganesha /run/rpcbind && { "$0" -f & } && exec "$1" -F -f "$2" -L "$3" -p /run/ganesha/pid`
	cmd := exec.CommandContext(context.WithoutCancel(ctx), unshare, "--mount", "sh", "-c", script, rpcbind, ganesha, conf, filepath.Join(dir, "ganesha.log"))
	if n.process, err = startProcess(place, "ganesha.nfsd", cmd, filepath.Join(dir, "ganesha.log")); err != nil {
		return nil, err
	}
	err = n.process.waitReady(ctx, func(ctx context.Context) error {
		return errors.Join(probeTCP(place, n.port)(ctx), probeTCP(place, n.mountPort)(ctx))
	})
	if err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

func (n *NFS) url(name string) string {
	return fmt.Sprintf("nfs://%s/data/%s?version=3&nfsport=%d&mountport=%d", n.place.Addr, name, n.port, n.mountPort)
}

// Get copies one file of the export to a local file.
func (n *NFS) Get(ctx context.Context, from Place, name, into string) error {
	path, err := Tool("nfs-cp")
	if err != nil {
		return err
	}
	_, err = Text(ctx, from, exec.CommandContext(ctx, path, n.url(name), into))
	return err
}

// List lists a directory of the export.
func (n *NFS) List(ctx context.Context, from Place, name string) (string, error) {
	path, err := Tool("nfs-ls")
	if err != nil {
		return "", err
	}
	return Text(ctx, from, exec.CommandContext(ctx, path, n.url(name)))
}

// Stop ends the server. It has nothing to save, and its orderly end takes seconds, so it is killed.
func (n *NFS) Stop() error { return n.process.Stop(syscall.SIGKILL) }
