package pair_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"wanpair/bench/lab"
)

// TestAddressesComeAndGo gives the far gateway an address of its LAN while it runs: a connection to it, which dialled as its client would get no
// answer for ever, is reset at once. When the address has moved to a host it is dialled like any other.
func TestAddressesComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testLink)
	w.serve("7805", echoServer)
	for _, c := range []struct{ addr, bits string }{{"10.2.0.77", "/24"}, {"fd00:2::77", "/64"}} {
		nodad := map[string]string{"/64": "nodad"}[c.bits]
		address := func(n lab.Node, do, device string) {
			args := []string{"addr", do, c.addr + c.bits, "dev", device}
			if do == "add" && nodad != "" {
				args = append(args, nodad)
			}
			w.must(n, "ip", args...)
		}
		address(lab.GatewayB, "add", lab.LANDevice)
		eventually(t, patience, c.addr+" is not dialled", func() error {
			began := time.Now()
			if err := w.echo(c.addr, "7805", 2*time.Second); !isReset(err) {
				return fmt.Errorf("the client saw %v after %v instead of a reset", err, time.Since(began))
			}
			return nil
		})
		address(lab.GatewayB, "del", lab.LANDevice)
		address(lab.Server, "add", lab.HostDevice)
		// The neighbours may take a moment to forget where it was.
		eventually(t, 2*patience, c.addr+" is dialled", func() error {
			before := w.diverted(t)
			ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
			defer cancel()
			conn, err := w.lab.Dial(ctx, lab.Client, "tcp", net.JoinHostPort(c.addr, "7805"))
			if err != nil {
				return err
			}
			conn.Close()
			if err := w.echo(c.addr, "7805", 2*time.Second); err != nil {
				return err
			}
			if w.diverted(t) == before {
				return fmt.Errorf("it passes raw")
			}
			return nil
		})
	}
}
