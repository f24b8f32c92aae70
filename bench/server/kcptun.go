package server

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Kcptun is a pair of kcptun's processes that carry one TCP port: what a user might pick instead.
type Kcptun struct {
	near, far *Process
	address   string
}

// StartKcptun carries connections made to the client's loopback to target, which is seen from the server's place.
func StartKcptun(ctx context.Context, near, far Place, dir, target string) (*Kcptun, error) {
	client, err := Tool("kcptun-client")
	if err != nil {
		return nil, err
	}
	server, err := Tool("kcptun-server")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	loopback := near
	loopback.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	port, err := freePort(ctx, loopback)
	if err != nil {
		return nil, err
	}
	udp, err := freePort(ctx, far)
	if err != nil {
		return nil, err
	}
	// Both ends must agree on mode and windows; these are kcptun's own for a fast link, wide enough for 100 ms.
	common := []string{"--mode", "fast2", "--sndwnd", "4096", "--rcvwnd", "4096", "--key", "bench"}
	k := &Kcptun{address: loopback.HostPort(port)}
	background := context.WithoutCancel(ctx)
	k.far, err = startProcess(far, "kcptun-server", exec.CommandContext(background, server, append([]string{"-l", ":" + strconv.Itoa(udp), "-t", target}, common...)...),
		filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	k.near, err = startProcess(near, "kcptun-client", exec.CommandContext(background, client, append([]string{"-l", k.address, "-r", far.HostPort(udp)}, common...)...),
		filepath.Join(dir, "client.log"))
	if err == nil {
		err = k.near.waitReady(ctx, probeTCP(loopback, port))
	}
	if err != nil {
		return nil, errors.Join(err, k.Stop())
	}
	return k, nil
}

// Address is where clients of the near place connect to.
func (k *Kcptun) Address() string { return k.address }

// Stop ends both.
func (k *Kcptun) Stop() error {
	var faults []error
	for _, p := range []*Process{k.near, k.far} {
		if p != nil {
			faults = append(faults, p.Stop(syscall.SIGTERM))
		}
	}
	return errors.Join(faults...)
}
