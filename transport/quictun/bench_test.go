package quictun

import (
	"testing"

	"wanpair/transport"
	"wanpair/transport/tuntest"
)

// BenchmarkFlow moves frames of 256 KiB over one lane on loopback; both ends in
// this process.
func BenchmarkFlow(b *testing.B) {
	p := tuntest.NewPair(b, connector(b), nil)
	sa, sb := p.Sessions(b)
	near, far := tuntest.Flow(b, sa, sb)
	go func() {
		for {
			fr, err := far.Receive()
			if err != nil {
				return
			}
			n, number := fr.RawLen, fr.Number
			far.Release(fr)
			far.Acknowledge(number)
			far.Consume(n)
		}
	}()
	payload := make([]byte, transport.MaxPayload(transport.MaxRawLength))
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		for left := 1 << 20; left > 0; {
			n, err := near.SendWindow()
			if err != nil {
				b.Fatal(err)
			}
			n = min(n, left)
			if _, err := near.Send(payload[:n+1], n, false); err != nil {
				b.Fatal(err)
			}
			left -= n
		}
	}
	b.StopTimer()
	near.Abort(transport.AbortReset)
}

// BenchmarkEcho sends 64 bytes to and fro.
func BenchmarkEcho(b *testing.B) {
	p := tuntest.NewPair(b, connector(b), nil)
	sa, sb := p.Sessions(b)
	near, far := tuntest.Flow(b, sa, sb)
	bounce := func(f *transport.Flow) error {
		fr, err := f.Receive()
		if err != nil {
			return err
		}
		f.Release(fr)
		f.Acknowledge(fr.Number)
		f.Consume(fr.RawLen)
		return nil
	}
	payload := make([]byte, 65)
	send := func(f *transport.Flow) error {
		if _, err := f.SendWindow(); err != nil {
			return err
		}
		_, err := f.Send(payload, 64, false)
		return err
	}
	go func() {
		for bounce(far) == nil && send(far) == nil {
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if err := send(near); err != nil {
			b.Fatal(err)
		}
		if err := bounce(near); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	near.Abort(transport.AbortReset)
}
