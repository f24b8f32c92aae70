package socks

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// talk is a client that has sent all it will ever send.
type talk struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (t *talk) Read(p []byte) (int, error)  { return t.in.Read(p) }
func (t *talk) Write(p []byte) (int, error) { return t.out.Write(p) }

func say(b ...byte) *talk { return &talk{in: bytes.NewReader(b)} }

var greeting = []byte{5, 1, 0}

func request(kind byte, rest ...byte) []byte {
	return append(append(bytes.Clone(greeting), 5, 1, 0, kind), rest...)
}

func TestReadRequest(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want string
		err  error
		out  []byte // answer behind the greeting's
	}{
		"IPv4":               {in: request(1, 10, 2, 0, 3, 0, 80), want: "10.2.0.3:80"},
		"IPv6":               {in: request(4, append(bytes.Repeat([]byte{0}, 15), 1, 1, 187)...), want: "[::1]:443"},
		"name":               {in: request(3, append([]byte{7}, "db.test\x15\x38"...)...), want: "db.test:5432"},
		"empty name":         {in: request(3, 0, 0, 80), err: ErrAddress},
		"name with colon":    {in: request(3, append([]byte{3}, "a:b\x00\x50"...)...), err: ErrAddress},
		"unknown type":       {in: request(9), err: ErrAddress, out: []byte{5, 8, 0, 1, 0, 0, 0, 0, 0, 0}},
		"BIND":               {in: append(bytes.Clone(greeting), 5, 2, 0, 1, 1, 2, 3, 4, 0, 1), err: ErrCommand, out: []byte{5, 7, 0, 1, 0, 0, 0, 0, 0, 0}},
		"truncated":          {in: request(1, 10, 2), err: io.ErrUnexpectedEOF},
		"request of SOCKS 4": {in: append(bytes.Clone(greeting), 4, 1, 0, 1), err: ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			talk := say(c.in...)
			got, err := ReadRequest(talk)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
			if want := append([]byte{5, 0}, c.out...); !bytes.Equal(talk.out.Bytes(), want) {
				t.Errorf("answered % x, want % x", talk.out.Bytes(), want)
			}
		})
	}
}

func TestGreetingRefused(t *testing.T) {
	talk := say(5, 1, 2)
	if _, err := ReadRequest(talk); !errors.Is(err, ErrMethod) || !bytes.Equal(talk.out.Bytes(), []byte{5, 0xff}) {
		t.Errorf("%v, % x", err, talk.out.Bytes())
	}
	talk = say([]byte("GET / HTTP/1.1\r\n\r\n")...)
	if _, err := ReadRequest(talk); !errors.Is(err, ErrVersion) || talk.out.Len() != 0 {
		t.Errorf("%v, % x", err, talk.out.Bytes())
	}
}

func TestNothingBehindTheRequestIsTaken(t *testing.T) {
	talk := say(append(request(1, 10, 2, 0, 3, 0, 80), "early data"...)...)
	if _, err := ReadRequest(talk); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(talk.in); string(rest) != "early data" {
		t.Errorf("left %q", rest)
	}
}

func TestWriteReply(t *testing.T) {
	var out bytes.Buffer
	if err := WriteReply(&out, Succeeded, netip.MustParseAddrPort("[fd00::2]:80")); err != nil {
		t.Fatal(err)
	}
	want := append([]byte{5, 0, 0, 4, 0xfd}, append(make([]byte, 14), 2, 0, 80)...)
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("% x, want % x", out.Bytes(), want)
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add(request(1, 10, 2, 0, 3, 0, 80))
	f.Add(request(3, append([]byte{7}, "db.test\x15\x38"...)...))
	f.Add([]byte{5, 255})
	for _, whole := range [][]byte{request(1, 10, 2, 0, 3, 0, 80), request(3, append([]byte{7}, "db.test\x15\x38"...)...), request(4, append(make([]byte, 16), 0, 80)...),
		request(9, 1), request(3, 0, 0, 80), request(3, 1, ' ', 0, 80)} {
		for n := range len(whole) + 1 {
			f.Add(whole[:n])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		talk := say(b...)
		target, err := ReadRequest(talk)
		if err == nil && (strings.Count(target, ":") == 0 || len(target) > 262) {
			t.Errorf("target %q", target)
		}
		if taken := len(b) - talk.in.Len(); taken > 2+255+4+1+255+2 {
			t.Errorf("%d bytes taken", taken)
		}
	})
}
