package memtun_test

import (
	"testing"
	"testing/synctest"
	"time"

	"wanpair/transport"
	"wanpair/transport/memtun"
	"wanpair/transport/tuntest"
)

func hostileWire(testing.TB) (transport.Lane, transport.Lane) {
	_, a, b := memtun.New(memtun.Config{Delay: 20 * time.Millisecond})
	return a, b
}

func TestHeldOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { tuntest.HeldOpen(t, hostileWire) })
}

func TestAnnouncedPayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { tuntest.AnnouncedPayloads(t, hostileWire) })
}
