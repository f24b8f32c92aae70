package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
)

// eachChange calls f with every beginning of b, and with b with every byte changed in several ways.
func eachChange(b []byte, f func([]byte)) {
	for n := range b {
		f(b[:n:n])
	}
	for i := range b {
		for _, v := range []byte{0, 1, 2, 0x7f, 0x80, 0xff, b[i] ^ 1, b[i] + 1} {
			c := bytes.Clone(b)
			c[i] = v
			f(c)
		}
	}
	f(append(bytes.Clone(b), 0))
}

// ofKind fails on an error that no caller knows.
func ofKind(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, errShort) {
		t.Errorf("%s: %v", what, err)
	}
}

// TestChangedInput cuts and changes one of everything that a peer says: each parser takes it, or says that it is malformed.
func TestChangedInput(t *testing.T) {
	h := sampleHello()
	eachChange(appendHello(nil, &h), func(b []byte) {
		_, err := parseHello(b)
		ofKind(t, "hello", err)
	})
	for _, fh := range []frameHeader{
		{open: true, flow: 2, openBody: []byte("open")},
		{fin: true, flow: 300, number: 7, offset: 1 << 40, rawLen: 1000, payloadLen: 2000},
		{flow: 2, number: 7, offset: 9, rawLen: 1, ack: true, ackNext: 1, ackCredit: 1 << 20, payloadLen: 2},
	} {
		eachChange(appendFrameHeader(nil, &fh), func(b []byte) {
			_, _, err := parseFrameHeader(b)
			ofKind(t, "frame", err)
		})
	}
	eachChange(appendAck(appendAck(nil, ackEntry{1, 2, 3}), ackEntry{1 << 40, 1 << 40, 1 << 40}), func(b []byte) {
		ofKind(t, "ack", parseAcks(b, func(ackEntry) error { return nil }))
	})
	eachChange(appendAbort(nil, 300, AbortReset)[1:], func(b []byte) {
		_, _, err := parseAbort(b)
		ofKind(t, "abort", err)
	})
	for name, parse := range map[string]func([]byte) error{
		"message": func(b []byte) error { _, _, err := parseMsg(b); return err },
		"number":  func(b []byte) error { _, err := parseUv(b); return err },
		"token":   func(b []byte) error { _, err := parseToken(b); return err },
		"goaway":  func(b []byte) error { _, _, err := parseGoAway(b); return err },
		"info":    func(b []byte) error { _, _, err := parseInfo(b); return err },
	} {
		eachChange([]byte{1, 3, 'b', 'y', 'e', 0xff, 0xff, 0xff}, func(b []byte) { ofKind(t, name, parse(b)) })
	}
	if _, _, err := parseMsg(append([]byte{1}, make([]byte, maxMessageBytes+2)...)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a message beyond its bound: %v", err)
	}
	broken := errors.New("broken")
	if err := parseAcks(appendAck(nil, ackEntry{1, 2, 3}), func(ackEntry) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an entry that is refused: %v", err)
	}
	records := append(appendToken(nil, recPing, 1), appendMsg(nil, 1<<40, []byte{KindCodec, 1, 2})...)
	eachChange(records, func(b []byte) {
		rr := newRecordReader(bytes.NewReader(b))
		for {
			if _, body, err := rr.next(); err != nil {
				return
			} else if len(body) > len(b) {
				t.Fatalf("%d bytes out of %d", len(body), len(b))
			}
		}
	})
}

// TestHelloListsAreBounded: one more prefix or address than allowed, in each of the lists.
func TestHelloListsAreBounded(t *testing.T) {
	h := sampleHello()
	whole := appendHello(nil, &h)
	field := func(key uint64, value []byte) []byte {
		b := binary.AppendUvarint(append([]byte{}, helloMagic[:]...), key)
		return append(binary.AppendUvarint(b, uint64(len(value))), value...)
	}
	var prefixes, addrs []byte
	for range maxPrefixes + 1 {
		prefixes = appendPrefix(prefixes, netip.MustParsePrefix("10.0.0.0/8"))
		addrs = appendAddr(addrs, netip.MustParseAddr("10.0.0.1"))
	}
	for key, value := range map[uint64][]byte{helloOwnSubnets: prefixes, helloPeerSubnets: prefixes, helloOwnAddrs: addrs, 63: {1}, helloRole: {200}} {
		if _, err := parseHello(field(key, value)); !errors.Is(err, ErrMalformed) {
			t.Errorf("field %d: %v", key, err)
		}
	}
	if _, err := parseHello(append(whole, field(helloSite, []byte{0})[4:]...)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a field twice: %v", err)
	}
	if _, err := parseHello(append(whole, field(62, []byte{0})[4:]...)); err != nil {
		t.Errorf("an unknown even field: %v", err)
	}
}
