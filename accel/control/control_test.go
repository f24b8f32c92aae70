package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wanpair/accel/control"
)

// serve runs a server whose gateway is warm.
func serve(t *testing.T, warm control.Warmer) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wanpair-control-") // the path must stay short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = control.Path(filepath.Join(dir, "cache"))
	s, err := control.Listen(t.Context(), socket, warm, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestWarm(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	socket := serve(t, func(_ context.Context, peer string, r io.Reader) (control.Warmed, error) {
		got, err := io.ReadAll(r)
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes arrived, of %d", len(got), len(data))
		}
		return control.Warmed{Peer: peer, RawBytes: int64(len(got)), WireBytes: 7}, err
	})
	got, err := control.Warm(t.Context(), socket, "nyc & more", bytes.NewReader(data))
	if want := (control.Warmed{Peer: "nyc & more", RawBytes: int64(len(data)), WireBytes: 7}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

// TestRefusals: what the gateway says arrives as it is, whether it says so before the data or in the midst of them, and the data are not read for nothing.
func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		read int64
	}{
		"before":      {fmt.Errorf("%w: say which peer: nyc, tok", control.ErrRefused), 0},
		"not now":     {fmt.Errorf("%w: peer nyc is down", control.ErrUnavailable), 0},
		"in between":  {errors.New("broke off after 5000000 bytes: flow aborted here: LINK_LOST"), 5_000_000},
		"hostile \"x": {errors.New("a \"quoted\" reason\nof two lines <b>"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			socket := serve(t, func(_ context.Context, _ string, r io.Reader) (control.Warmed, error) {
				n, _ := io.CopyN(io.Discard, r, tc.read)
				return control.Warmed{RawBytes: n}, tc.err
			})
			endless := &endless{}
			got, err := control.Warm(t.Context(), socket, "", endless)
			if err == nil || err.Error() != tc.err.Error() || got.RawBytes != tc.read {
				t.Errorf("got %+v, %v", got, err)
			}
			if tc.read == 0 && endless.n > 0 {
				t.Errorf("%d bytes were sent to a gateway that refuses", endless.n)
			}
		})
	}
}

type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n += int64(len(p))
	return len(p), nil
}

// TestClientGone: the gateway hears of data that break off as an error, not as their end.
func TestClientGone(t *testing.T) {
	heard := make(chan error, 1)
	socket := serve(t, func(_ context.Context, _ string, r io.Reader) (control.Warmed, error) {
		_, err := io.Copy(io.Discard, r)
		heard <- err
		return control.Warmed{}, err
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, _ = control.Warm(ctx, socket, "", &stopsAfter{n: 100, stop: cancel}) }()
	if err := <-heard; err == nil {
		t.Error("data that broke off ended well")
	}
}

type stopsAfter struct {
	n    int
	stop func()
}

func (s *stopsAfter) Read(p []byte) (int, error) {
	if s.n--; s.n == 0 {
		s.stop()
	}
	return len(p), nil
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "wanpair-control-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)
	socket := control.Path(dir)
	// One that was left behind is replaced; one that answers is not.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if _, err := control.Listen(t.Context(), socket, nil, log); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("taken: %v", err)
	}
	left.Close()
	s, err := control.Listen(t.Context(), socket, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for name, path := range map[string]string{
		"longer":      control.Path(filepath.Join(dir, strings.Repeat("x", 120))),
		"a file":      control.Path("/dev/null/cache"),
		"not allowed": control.Path("/proc/cache"),
	} {
		if _, err := control.Listen(t.Context(), path, nil, log); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := control.Warm(t.Context(), socket, "", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "nothing answers") {
		t.Errorf("nobody there: %v", err)
	}
}
