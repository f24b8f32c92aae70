package chaos

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testPool = newPool(7)

// connect gives both ends of a TCP connection over loopback.
func connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// converse runs an order between two ends whose bytes pass a filter on their way to the client.
func converse(t *testing.T, o order, toClient func(io.Writer, io.Reader) error) (client, server error) {
	t.Helper()
	outer, gateIn := connect(t)
	gateOut, inner := connect(t)
	patience := 5 * time.Second
	c := talker{conn: outer, pool: testPool, order: o, patience: patience}
	s := talker{conn: inner, pool: testPool, order: o, patience: patience}
	verdict := make(chan error, 1)
	go func() {
		head := make([]byte, headerBytes)
		if _, err := io.ReadFull(inner, head); err != nil {
			verdict <- err
			return
		}
		got, err := parseHeader(head)
		if err == nil && got != o {
			err = errors.New("another order")
		}
		if err != nil {
			verdict <- err
			return
		}
		verdict <- s.server()
	}()
	go func() {
		if _, err := io.Copy(gateOut, gateIn); err != nil {
			_ = gateOut.SetLinger(0)
			gateOut.Close()
			return
		}
		_ = gateOut.CloseWrite()
	}()
	go func() {
		if err := toClient(gateIn, gateOut); err != nil {
			_ = gateIn.SetLinger(0)
			gateIn.Close()
			return
		}
		_ = gateIn.CloseWrite()
	}()
	return c.client(), <-verdict
}

func honest(w io.Writer, r io.Reader) error { _, err := io.Copy(w, r); return err }

func TestConversationsOfAllModes(t *testing.T) {
	for m := range modes {
		o := order{mode: m, id: 1, seed: uint64(m) + 3, up: 200_000, down: 300_000, cut: 100_000, stall: time.Millisecond}
		if m == modeDribble {
			o.up, o.down = 50, 50
		}
		client, server := converse(t, o, honest)
		wantClient, wantServer := m != modeServerReset, m != modeServerReset && m != modeClientReset
		if (client == nil) != wantClient || (server == nil) != wantServer || violation(client) || violation(server) {
			t.Errorf("%v: the client ended with %v, the server with %v", m, client, server)
		}
	}
}

func TestWrongBytesAndTruncatedCleanEndsAreSeen(t *testing.T) {
	o := order{mode: modeDown, id: 1, seed: 5, down: 300_000}
	for name, c := range map[string]struct {
		gate func(io.Writer, io.Reader) error
		want error
	}{
		"a flipped bit": {func(w io.Writer, r io.Reader) error {
			b, _ := io.ReadAll(r)
			b[200_000] ^= 1
			_, err := w.Write(b)
			return err
		}, errWrongByte},
		"a byte too many": {func(w io.Writer, r io.Reader) error {
			b, _ := io.ReadAll(r)
			_, err := w.Write(append(b, 0))
			return err
		}, errWrongByte},
		"a clean end before the end": {func(w io.Writer, r io.Reader) error {
			b, _ := io.ReadAll(r)
			_, err := w.Write(b[:299_999])
			return err
		}, errCleanEnd},
		"a clean end at once": {func(_ io.Writer, r io.Reader) error { _, _ = io.Copy(io.Discard, r); return nil }, errCleanEnd},
	} {
		if client, _ := converse(t, o, c.gate); !errors.Is(client, c.want) {
			t.Errorf("%s: the client ended with %v", name, client)
		}
	}
	cut := func(w io.Writer, r io.Reader) error {
		b, _ := io.ReadAll(r)
		_, _ = w.Write(b[:1000])
		return errors.New("reset")
	}
	if client, _ := converse(t, o, cut); client == nil || violation(client) {
		t.Errorf("a reset in the middle is %v", client)
	}
}

func TestHeaderRoundTripAndDamage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := order{mode: mode(rapid.IntRange(0, int(modes)-1).Draw(t, "mode")), id: rapid.Uint64().Draw(t, "id"), seed: rapid.Uint64().Draw(t, "seed"),
			up: rapid.Int64Min(0).Draw(t, "up"), down: rapid.Int64Min(0).Draw(t, "down"), cut: rapid.Int64Min(0).Draw(t, "cut")}
		b := o.header()
		if got, err := parseHeader(b); err != nil || got != o {
			t.Fatalf("%+v came back as %+v, %v", o, got, err)
		}
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := parseHeader(b); !errors.Is(err, errWrongByte) {
			t.Fatalf("damage was not seen: %v", err)
		}
	})
}

func TestContentIsTheSameHoweverItIsRead(t *testing.T) {
	for seed := range uint64(20) {
		whole := make([]byte, 300_000)
		_, _ = newContent(testPool, seed).Read(whole)
		c, rng := newContent(testPool, seed), rand.New(rand.NewPCG(seed, 9))
		for at := 0; at < len(whole); {
			p := make([]byte, min(1+rng.IntN(5000), len(whole)-at))
			_, _ = c.Read(p)
			if !bytes.Equal(p, whole[at:at+len(p)]) {
				t.Fatalf("seed %d differs at %d", seed, at)
			}
			at += len(p)
		}
	}
}
