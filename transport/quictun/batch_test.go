package quictun

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A burst that the sender's kernel cuts and ours joins is read packet by packet, of both families.
func TestSocketReadsPackets(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			in, err := listenUDP(context.Background(), address, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = in.Close() }()
			out, err := net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = out.Close() }()
			const size = 1200
			var want [][]byte
			var burst []byte
			for i := range 21 {
				packet := bytes.Repeat([]byte{byte(i)}, size)
				if i == 20 {
					packet = packet[:100] // only the last may be shorter
				}
				want, burst = append(want, packet), append(burst, packet...)
			}
			if _, _, err := out.WriteMsgUDP(burst, segmentControl(size), nil); err != nil {
				t.Fatal(err)
			}
			want = append(want, []byte("alone"))
			if _, err := out.Write([]byte("alone")); err != nil {
				t.Fatal(err)
			}
			ms := make([]ipv4.Message, 8)
			for i := range ms {
				ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, controlBytes)}
			}
			_ = in.SetReadDeadline(time.Now().Add(30 * time.Second))
			for len(want) > 0 {
				n, err := in.ReadBatch(ms, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range ms[:n] {
					if !bytes.Equal(m.Buffers[0][:m.N], want[0]) {
						t.Fatalf("%d bytes beginning %x, want %d beginning %x", m.N, m.Buffers[0][:1], len(want[0]), want[0][:1])
					}
					if m.Addr.String() != out.LocalAddr().String() {
						t.Fatalf("from %v, want %v", m.Addr, out.LocalAddr())
					}
					want = want[1:]
				}
			}
			_ = in.SetReadDeadline(time.Now().Add(-time.Second))
			if _, err := in.ReadBatch(ms, 0); err == nil {
				t.Fatal("a packet more than was sent")
			}
		})
	}
}

// segmentControl asks the kernel to cut what is sent (UDP_SEGMENT).
func segmentControl(size uint16) []byte {
	return controlMessage(unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, size))
}

func controlMessage(typ int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(b[12:], uint32(typ))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func FuzzSegmentSize(f *testing.F) {
	f.Add(controlMessage(unix.UDP_GRO, binary.NativeEndian.AppendUint32(nil, 1400)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) { segmentSize(b) })
}

// Packets that come often are left to gather, and one that comes alone, or after a pause, is read at once.
func TestGathering(t *testing.T) {
	var g gathering
	now := time.Now()
	stream := func(every time.Duration, n int) (waits int) {
		for range n {
			now = now.Add(every)
			if w := g.wait(now); w > gatherTime || w < 0 {
				t.Fatalf("waits for %v", w)
			} else if w > 0 {
				waits++
			}
			g.packets++
		}
		return waits
	}
	if n := stream(10*time.Millisecond, 100); n != 0 {
		t.Errorf("100 packets a second: %d waits", n)
	}
	if n := stream(100*time.Microsecond, 1000); n < 700 {
		t.Errorf("10,000 packets a second: %d waits of 1000", n)
	}
	now = now.Add(50 * time.Millisecond)
	if w := g.wait(now); w != 0 {
		t.Errorf("after a pause: waits for %v", w)
	}
}
