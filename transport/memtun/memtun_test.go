package memtun_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"wanpair/transport"
	"wanpair/transport/memtun"
	"wanpair/transport/tuntest"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := tuntest.NewPair(t, func(t testing.TB) (transport.Lane, transport.Lane) {
			_, a, b := memtun.New(memtun.Config{Delay: 50 * time.Millisecond, Jitter: time.Millisecond, Rate: 10e6})
			return a, b
		}, nil)
		a, b := p.Sessions(t)
		near, far := tuntest.Flow(t, a, b)
		data := make([]byte, 20<<20)
		rand.NewChaCha8([32]byte{}).Read(data)
		start := time.Now()
		go tuntest.Send(near, bytes.NewReader(data))
		go tuntest.Send(far, bytes.NewReader(data[:1000]))
		var got, back bytes.Buffer
		if err := tuntest.Receive(far, &got); err != nil {
			t.Fatal(err)
		}
		if err := tuntest.Receive(near, &back); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) || back.Len() != 1000 {
			t.Fatal("wrong")
		}
		<-near.Done()
		<-far.Done()
		t.Log(time.Since(start), near.Err(), far.Err())
		t.Logf("%+v", p.A.Link.Stats())
	})
}
