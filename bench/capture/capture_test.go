package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	clientEnd = netip.MustParseAddrPort("10.0.0.1:40000")
	serverEnd = netip.MustParseAddrPort("10.0.0.2:80")
	client6   = netip.MustParseAddrPort("[fd00::1]:40000")
	server6   = netip.MustParseAddrPort("[fd00::2]:5432")
)

// ipPacket makes an IP packet with a TCP segment.
func ipPacket(from, to netip.AddrPort, seq uint32, flags byte, payload []byte) []byte {
	tcp := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = 5<<4, flags
	tcp = append(tcp, payload...)
	if from.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, protocolTCP
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		copy(ip[12:], from.Addr().AsSlice())
		copy(ip[16:], to.Addr().AsSlice())
		return append(ip, tcp...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6] = 0x60, protocolTCP
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], from.Addr().AsSlice())
	copy(ip[24:], to.Addr().AsSlice())
	return append(ip, tcp...)
}

// pcap makes a file of the packets with raw IP as link type, a millisecond apart.
func pcap(order binary.AppendByteOrder, packets ...[]byte) []byte {
	f := order.AppendUint32(nil, magicMicro)
	f = append(f, make([]byte, 12)...)
	f = order.AppendUint32(f, 65535)
	f = order.AppendUint32(f, linkRaw101)
	for i, p := range packets {
		f = order.AppendUint32(f, 1)
		f = order.AppendUint32(f, uint32(i)*1000)
		f = order.AppendUint32(f, uint32(len(p)))
		f = order.AppendUint32(f, uint32(len(p)))
		f = append(f, p...)
	}
	return f
}

// pcapng makes a file with one section, one Ethernet interface in nanoseconds, a block to be skipped, and a block for each packet.
func pcapng(order binary.AppendByteOrder, packets ...[]byte) []byte {
	block := func(f []byte, kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		f = order.AppendUint32(f, kind)
		f = order.AppendUint32(f, uint32(len(body)+12))
		f = append(f, body...)
		return order.AppendUint32(f, uint32(len(body)+12))
	}
	section := order.AppendUint32(nil, byteOrder)
	section = append(section, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255)
	f := block(nil, magicNG, section)
	description := order.AppendUint16(nil, linkEthernet)
	description = append(description, 0, 0, 0, 0, 0, 0)
	description = order.AppendUint16(description, 9)
	description = order.AppendUint16(description, 1)
	description = append(description, 9, 0, 0, 0, 0, 0, 0, 0)
	f = block(f, blockInterface, description)
	f = block(f, 5, make([]byte, 12)) // interface statistics
	for i, p := range packets {
		ether := append(make([]byte, 12), 0x81, 0, 0, 1, 8, 0) // with a VLAN tag
		if p[0]>>4 == 6 {
			ether[16], ether[17] = 0x86, 0xdd
		}
		p = append(ether, p...)
		body := order.AppendUint32(nil, 0)
		stamp := uint64(1e9) + uint64(i)*1e6
		body = order.AppendUint32(body, uint32(stamp>>32))
		body = order.AppendUint32(body, uint32(stamp))
		body = order.AppendUint32(body, uint32(len(p)))
		body = order.AppendUint32(body, uint32(len(p)))
		f = block(f, blockEnhanced, append(body, p...))
	}
	return f
}

// collector keeps what it is given.
type collector struct {
	streams map[uint64]*collected
	order   []*collected
}

type collected struct {
	From, To string
	Port     uint16
	Data     string
	Gaps     int64
	Ends     int
	LastAt   time.Duration
}

func (c *collector) of(s *Stream) *collected {
	if c.streams == nil {
		c.streams = map[uint64]*collected{}
	}
	if c.streams[s.ID] == nil {
		c.streams[s.ID] = &collected{From: s.From.String(), To: s.To.String(), Port: s.ServerPort}
		c.order = append(c.order, c.streams[s.ID])
	}
	return c.streams[s.ID]
}

func (c *collector) Bytes(s *Stream, at time.Duration, b []byte) error {
	one := c.of(s)
	one.Data += string(b)
	one.LastAt = at
	return nil
}
func (c *collector) Gap(s *Stream, n int64) error { c.of(s).Gaps += n; return nil }
func (c *collector) End(s *Stream) error          { c.of(s).Ends++; return nil }

func TestConversation(t *testing.T) {
	conversation := func(c, s netip.AddrPort) [][]byte {
		return [][]byte{
			ipPacket(c, s, 100, flagSYN, nil),
			ipPacket(s, c, 0xfffffffe, flagSYN|flagACK, nil), // its numbers pass zero soon
			ipPacket(c, s, 101, flagACK, []byte("GET ")),
			ipPacket(c, s, 107, flagACK, []byte("x")), // ahead
			ipPacket(c, s, 105, flagACK, []byte("/i")),
			ipPacket(c, s, 101, flagACK, []byte("GET /i")), // again
			ipPacket(s, c, 0xffffffff, flagACK, []byte("abc")),
			ipPacket(s, c, 2, flagACK|flagFIN, []byte("def")),
			ipPacket(c, s, 108, flagFIN|flagACK, nil),
		}
	}
	for name, c := range map[string]struct {
		file           []byte
		client, server netip.AddrPort
	}{
		"pcap, little":     {pcap(binary.LittleEndian, conversation(clientEnd, serverEnd)...), clientEnd, serverEnd},
		"pcap, big, IPv6":  {pcap(binary.BigEndian, conversation(client6, server6)...), client6, server6},
		"pcapng, little":   {pcapng(binary.LittleEndian, conversation(clientEnd, serverEnd)...), clientEnd, serverEnd},
		"pcapng, big, six": {pcapng(binary.BigEndian, conversation(client6, server6)...), client6, server6},
	} {
		t.Run(name, func(t *testing.T) {
			var got collector
			sum, err := Read(bytes.NewReader(c.file), Limits{}, &got)
			if err != nil || sum.Damaged != nil {
				t.Fatal(err, sum.Damaged)
			}
			port := c.server.Port()
			want := []*collected{
				{From: c.client.String(), To: c.server.String(), Port: port, Data: "GET /ix", Ends: 1, LastAt: time.Second + 4*time.Millisecond},
				{From: c.server.String(), To: c.client.String(), Port: port, Data: "abcdef", Ends: 1, LastAt: time.Second + 7*time.Millisecond},
			}
			if diff := cmp.Diff(want, got.order); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(Summary{Packets: 9, Connections: 1, Bytes: 13, RepeatBytes: 6}, sum); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGapsAndLimits(t *testing.T) {
	big := bytes.Repeat([]byte("z"), 1000)
	packets := [][]byte{ipPacket(clientEnd, serverEnd, 0, flagSYN, nil), ipPacket(clientEnd, serverEnd, 1, flagACK, []byte("a"))}
	for i := range 5 { // byte 2 never comes
		packets = append(packets, ipPacket(clientEnd, serverEnd, uint32(3+1000*i), flagACK, big))
	}
	var got collector
	sum, err := Read(bytes.NewReader(pcap(binary.LittleEndian, packets...)), Limits{StreamBytes: 3000}, &got)
	if err != nil {
		t.Fatal(err)
	}
	if s := got.order[0]; s.Gaps != 1 || len(s.Data) != 5001 || sum.MissingBytes != 1 {
		t.Errorf("gaps %d, %d bytes, %+v", s.Gaps, len(s.Data), sum)
	}
	// Streams beyond the limit push out the one idle longest.
	packets = packets[:0]
	for i := range 10 {
		from := netip.AddrPortFrom(clientEnd.Addr(), uint16(1000+i))
		packets = append(packets, ipPacket(from, serverEnd, 0, flagSYN, nil), ipPacket(from, serverEnd, 1, flagACK, []byte("x")))
	}
	got = collector{}
	sum, err = Read(bytes.NewReader(pcap(binary.LittleEndian, packets...)), Limits{Streams: 2}, &got)
	if err != nil || sum.Connections != 10 || len(got.order) != 10 {
		t.Errorf("%+v %d %v", sum, len(got.order), err)
	}
	for _, s := range got.order {
		if s.Ends != 1 {
			t.Errorf("%s ended %d times", s.From, s.Ends)
		}
	}
}

func TestDamage(t *testing.T) {
	whole := pcap(binary.LittleEndian, ipPacket(clientEnd, serverEnd, 0, flagACK, []byte("hello")), ipPacket(clientEnd, serverEnd, 5, flagACK, []byte("world")))
	var got collector
	sum, err := Read(bytes.NewReader(whole[:len(whole)-3]), Limits{}, &got)
	if err != nil || !errors.Is(sum.Damaged, ErrFormat) || got.order[0].Data != "hello" {
		t.Errorf("%v %+v", err, sum)
	}
	for _, bad := range [][]byte{nil, []byte("x"), []byte("plain text"), whole[:10]} {
		if _, err := Read(bytes.NewReader(bad), Limits{}, &collector{}); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	stop := errors.New("enough")
	if _, err := Read(bytes.NewReader(whole), Limits{}, failing{stop}); !errors.Is(err, stop) {
		t.Errorf("the handler's error: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Bytes(*Stream, time.Duration, []byte) error { return f.err }
func (f failing) Gap(*Stream, int64) error                   { return f.err }
func (f failing) End(*Stream) error                          { return f.err }

// Whatever order and repetition packets come in, the stream is the same.
func TestReassembly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 1, 3000).Draw(t, "data")
		start := rapid.Uint32().Draw(t, "start")
		type piece struct{ from, to int }
		var pieces []piece
		for at := 0; at < len(data); {
			n := rapid.IntRange(1, 400).Draw(t, "n")
			end := min(len(data), at+n)
			back := rapid.IntRange(0, min(at, 50)).Draw(t, "overlap")
			pieces = append(pieces, piece{at - back, end})
			at = end
		}
		for range rapid.IntRange(0, 5).Draw(t, "repeats") {
			pieces = append(pieces, pieces[rapid.IntRange(0, len(pieces)-1).Draw(t, "which")])
		}
		order := rapid.Permutation(pieces).Draw(t, "order")
		packets := [][]byte{ipPacket(clientEnd, serverEnd, start, flagSYN, nil)}
		for _, p := range order {
			packets = append(packets, ipPacket(clientEnd, serverEnd, start+1+uint32(p.from), flagACK, data[p.from:p.to]))
		}
		var got collector
		sum, err := Read(bytes.NewReader(pcap(binary.LittleEndian, packets...)), Limits{}, &got)
		if err != nil || sum.MissingBytes != 0 || len(got.order) != 1 || got.order[0].Data != string(data) {
			t.Fatalf("%v %+v, %d of %d bytes", err, sum, len(got.order[0].Data), len(data))
		}
	})
}

func FuzzRead(f *testing.F) {
	packets := [][]byte{
		ipPacket(clientEnd, serverEnd, 1, flagSYN, nil), ipPacket(clientEnd, serverEnd, 2, flagACK, []byte("abc")),
		ipPacket(clientEnd, serverEnd, 7, flagACK, []byte("ghi")), ipPacket(client6, server6, 7, flagRST, nil),
	}
	f.Add(pcap(binary.LittleEndian, packets...))
	f.Add(pcap(binary.BigEndian, packets...))
	f.Add(pcapng(binary.LittleEndian, packets...))
	f.Add(pcapng(binary.BigEndian, packets...))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := &counter{}
		sum, err := Read(bytes.NewReader(data), Limits{Streams: 4, StreamBytes: 500, TotalBytes: 1000}, h)
		if err != nil {
			return
		}
		if sum.Bytes != h.bytes || sum.MissingBytes != h.gaps || sum.Bytes > int64(len(data)) || h.open != 0 {
			t.Fatalf("%+v, handed on %+v", sum, h)
		}
	})
}

// counter checks that streams begin and end in pairs.
type counter struct {
	bytes, gaps int64
	open        int
}

func (c *counter) see(s *Stream) {
	if s.Data == nil {
		s.Data = c
		c.open++
	}
}
func (c *counter) Bytes(s *Stream, _ time.Duration, b []byte) error {
	c.see(s)
	c.bytes += int64(len(b))
	return nil
}
func (c *counter) Gap(s *Stream, n int64) error { c.see(s); c.gaps += n; return nil }
func (c *counter) End(s *Stream) error          { c.see(s); c.open--; return nil }
