package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// addrsSettle is waited for after a change, as addresses seldom come alone.
	addrsSettle = 50 * time.Millisecond
	// addrsRetry is how often the addresses are read where the kernel does not tell of changes, and when it is asked again to.
	addrsRetry = 10 * time.Second
)

// HostAddrs are the addresses of this host but loopback and link-local ones, sorted.
func HostAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if addr := prefix.Addr().Unmap(); !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// WatchHostAddrs calls changed with [HostAddrs] whenever they differ from the last ones, beginning with known, until ctx ends.
func WatchHostAddrs(ctx context.Context, known []netip.Addr, changed func([]netip.Addr)) {
	look := func() {
		now, err := HostAddrs()
		if err != nil || slices.Equal(now, known) {
			return
		}
		known = now
		changed(slices.Clone(now))
	}
	for ctx.Err() == nil {
		events := make(chan netlink.AddrUpdate)
		done := make(chan struct{})
		err := netlink.AddrSubscribeWithOptions(events, done, netlink.AddrSubscribeOptions{ErrorCallback: func(error) {}})
		look() // what changed before the kernel tells
		if err == nil {
			followAddrs(ctx, events, look)
		}
		close(done)
		if err == nil {
			for range events { // its sender ends with them
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(addrsRetry):
		}
	}
}

// followAddrs looks after each change that the kernel tells of, until it tells no more or ctx ends.
func followAddrs(ctx context.Context, events <-chan netlink.AddrUpdate, look func()) {
	settle := time.NewTimer(0)
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				return
			}
			settle.Reset(addrsSettle)
		case <-settle.C:
			look()
		}
	}
}
