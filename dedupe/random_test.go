package dedupe

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"testing"

	"wanpair/dedupe/token"
)

// numbers is text that compresses well and does not repeat.
func numbers(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d squared is %d, and its cube %d\n", i, i*i, i*i*i)
	}
	return b.Bytes()[:n]
}

func TestLook(t *testing.T) {
	text := numbers(256 << 10)
	half := append(noise(1, 128<<10), text[:128<<10]...)
	for _, c := range []struct {
		name string
		data []byte
		want looks
	}{
		{"noise", noise(1, 256<<10), random},
		{"odd length", noise(2, 100003), random},
		{"text", text, orderly},
		{"half text", half, orderly},
		{"base64", []byte(base64.StdEncoding.EncodeToString(noise(3, 128<<10))), orderly},
		{"zeros", make([]byte, 256<<10), orderly},
		{"short noise", noise(4, 4096), unclear},
		{"nothing", nil, unclear},
	} {
		if got := look(c.data); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestRandomIsLetThrough sends noise and then text in one flow: the noise is not given to zstd, and takes the flow's stream from it; the text is
// compressed from its first frame on.
func TestRandomIsLetThrough(t *testing.T) {
	p := newPair(t, testConfig(""), testConfig(""))
	const size = 64 << 10
	text := numbers(10 * size)
	data := append(append(bytes.Clone(text[:4*size]), noise(5, 40*size)...), text[4*size:]...)
	e, d := p.a.NewEncoder(1), p.b.NewDecoder(1)
	defer d.Close()
	closed := false
	for n := uint64(0); len(data) > 0; n++ {
		raw := data[:size]
		data = data[size:]
		wire, err := e.Encode(nil, raw, n, len(data) == 0)
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := d.Decode(nil, wire, n, size)
		if err != nil || !bytes.Equal(out, raw) {
			t.Fatalf("frame %d: %v", n, err)
		}
		e.Acked(n + 1)
		p.pump()
		var f token.Frame
		if err := f.Parse(wire); err != nil {
			t.Fatal(err)
		}
		random := n >= 4 && n < 44
		closed = closed || random && f.ContextCloses
		switch {
		case random && (f.Literals != token.Raw || len(wire) > size+40):
			t.Errorf("frame %d of noise: literals coded as %d, %d bytes", n, f.Literals, len(wire))
		case !random && len(wire) > size/2:
			t.Errorf("frame %d of text takes %d bytes", n, len(wire))
		}
	}
	if !closed {
		t.Error("a flow of noise keeps its stream")
	}
	e.Close(true)
}
