package memtun_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"wanpair/transport"
	"wanpair/transport/memtun"
	"wanpair/transport/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	wires := map[string]memtun.Config{
		"perfect": {},
		"bad":     {Delay: 40 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.05, Rate: 50e6},
	}
	for name, cfg := range wires {
		t.Run(name, func(t *testing.T) {
			tuntest.Run(t, tuntest.Options{
				Connect: func(testing.TB) (transport.Lane, transport.Lane) {
					_, a, b := memtun.New(cfg)
					return a, b
				},
				Around: synctest.Test,
			})
		})
	}
}
