package chaos

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"time"
)

// mode is what the two ends of a connection of our own client do. The client always begins with a header.
type mode byte

const (
	modeDown        mode = iota // the client ends its direction at once; the server sends
	modeUp                      // the server answers only after the client's end: half-close, late reply
	modeDuplex                  // both send at the same time
	modeServerFirst             // the server sends and ends; then the client sends: half-close the other way
	modeClientReset             // the client resets in the middle of what it sends
	modeServerReset             // the server resets in the middle of what it sends
	modeStall                   // the client stops reading for a while
	modeDribble                 // single bytes, back and forth
	modes
)

func (m mode) String() string {
	return [...]string{"down", "up, late reply", "both ways", "server first", "client resets", "server resets", "stalls", "single bytes"}[m]
}

// order is what one connection does; both ends know it.
type order struct {
	mode     mode
	id, seed uint64
	up, down int64
	cut      int64 // where the reset or the stall comes
	stall    time.Duration
}

const headerBytes = 4 + 1 + 8*6 + 4

var headerMagic = []byte("wch1")

// header is the order as the first bytes of the client's direction; a checksum tells a wrong byte in it.
func (o order) header() []byte {
	b := append(make([]byte, 0, headerBytes), headerMagic...)
	b = append(b, byte(o.mode))
	for _, v := range []uint64{o.id, o.seed, uint64(o.up), uint64(o.down), uint64(o.cut), uint64(o.stall)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// parseHeader reads one; everything but what a client sent is a wrong byte.
func parseHeader(b []byte) (o order, err error) {
	if len(b) != headerBytes || !bytes.Equal(b[:4], headerMagic) || b[4] >= byte(modes) ||
		crc32.ChecksumIEEE(b[:headerBytes-4]) != binary.BigEndian.Uint32(b[headerBytes-4:]) {
		return o, fmt.Errorf("%w: in the header: %x", errWrongByte, b)
	}
	v := func(i int) uint64 { return binary.BigEndian.Uint64(b[5+8*i:]) }
	return order{mode(b[4]), v(0), v(1), int64(v(2)), int64(v(3)), int64(v(4)), time.Duration(v(5))}, nil
}

// talker is one end of a connection.
type talker struct {
	conn     *net.TCPConn
	pool     []byte
	order    order
	patience time.Duration // how long to wait for any progress
	got      int64         // bytes that arrived and were right
}

const pieceBytes = 64 << 10

// read and write fail with errStalled when nothing moves for the patience.
func (t *talker) read(p []byte) (int, error) {
	if err := t.conn.SetReadDeadline(time.Now().Add(t.patience)); err != nil {
		return 0, err
	}
	n, err := t.conn.Read(p)
	return n, stalled(err)
}

func (t *talker) write(p []byte) error {
	if err := t.conn.SetWriteDeadline(time.Now().Add(t.patience)); err != nil {
		return err
	}
	_, err := t.conn.Write(p)
	return stalled(err)
}

func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return err
}

// The seeds of the two directions' bytes.
func (o order) upSeed() uint64   { return o.seed ^ 0x9e3779b97f4a7c15 }
func (o order) downSeed() uint64 { return o.seed ^ 0xc2b2ae3d27d4eb4f }

// send sends the bytes [0, upTo) of a direction.
func (t *talker) send(seed uint64, upTo int64) error {
	c := newContent(t.pool, seed)
	piece := make([]byte, min(pieceBytes, upTo))
	for sent := int64(0); sent < upTo; {
		p := piece[:min(int64(len(piece)), upTo-sent)]
		_, _ = c.Read(p)
		if err := t.write(p); err != nil {
			return err
		}
		sent += int64(len(p))
	}
	return nil
}

// receive takes a whole direction of total bytes up to its end.
func (t *talker) receive(seed uint64, total int64) error {
	check := checker{want: newContent(t.pool, seed), total: total}
	piece := make([]byte, min(pieceBytes, total+1))
	waits := t.order.mode == modeStall && t.order.stall > 0
	for {
		n, err := t.read(piece)
		if n > 0 {
			if wrong := check.check(piece[:n]); wrong != nil {
				return wrong
			}
			t.got += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF) && check.at == total:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: after %d of %d bytes", errCleanEnd, check.at, total)
		case err != nil:
			return err
		}
		if waits && check.at >= t.order.cut {
			time.Sleep(t.order.stall) // a reader that stands still is what is tried here
			waits = false
		}
	}
}

// together joins how the two directions of a connection ended. The kernel hides a reset from a read when a write met it first: so a
// clean end counts as one only when no write failed.
func together(receive, send error) error {
	if errors.Is(receive, errCleanEnd) && send != nil {
		return send
	}
	if receive != nil {
		return receive
	}
	return send
}

// reset ends the connection by a reset.
func (t *talker) reset() {
	_ = t.conn.SetLinger(0)
	_ = t.conn.Close()
}

// end closes after both directions ended cleanly, and resets otherwise: an end of ours that failed must not look clean to the other.
func (t *talker) end(err error) {
	if err != nil {
		t.reset()
		return
	}
	_ = t.conn.SetLinger(-1) // see traffic.dial
	_ = t.conn.Close()
}

// alongside runs send beside receive and waits for both.
func alongside(receive, send func() error) error {
	sent := make(chan error, 1)
	go func() { sent <- send() }()
	received := receive()
	return together(received, <-sent)
}

// client does the client's part. The connection is closed or reset when it returns.
func (t *talker) client() (err error) {
	o := t.order
	defer func() { t.end(err) }()
	if err := t.write(o.header()); err != nil {
		return err
	}
	up := func() error {
		if err := t.send(o.upSeed(), o.up); err != nil {
			return err
		}
		return t.conn.CloseWrite()
	}
	down := func() error { return t.receive(o.downSeed(), o.down) }
	switch o.mode {
	case modeDribble:
		return t.dribble(o.upSeed(), o.downSeed(), o.up, true)
	case modeServerFirst:
		if err := down(); err != nil {
			return err
		}
		return up()
	case modeClientReset:
		received := make(chan error, 1)
		go func() { received <- down() }()
		err := t.send(o.upSeed(), o.cut)
		t.reset()
		// Whatever ended the receiving, it was us, or it is broken; bytes must be right all the same.
		if r := <-received; errors.Is(r, errWrongByte) {
			return r
		} else if err == nil && errors.Is(r, errCleanEnd) {
			return r
		}
		return err
	default:
		return alongside(down, up)
	}
}

// server does the server's part, after the header.
func (t *talker) server() (err error) {
	o := t.order
	defer func() { t.end(err) }()
	up := func() error { return t.receive(o.upSeed(), o.up) }
	down := func() error {
		if err := t.send(o.downSeed(), o.down); err != nil {
			return err
		}
		return t.conn.CloseWrite()
	}
	switch o.mode {
	case modeDribble:
		return t.dribble(o.downSeed(), o.upSeed(), o.up, false)
	case modeUp:
		if err := up(); err != nil {
			return err
		}
		return down()
	case modeServerFirst:
		if err := down(); err != nil {
			return err
		}
		return up()
	case modeServerReset:
		return alongside(up, func() error {
			err := t.send(o.downSeed(), o.cut)
			t.reset()
			return errors.Join(err, net.ErrClosed)
		})
	default:
		return alongside(up, down)
	}
}

// dribble exchanges n single bytes each way.
func (t *talker) dribble(sendSeed, receiveSeed uint64, n int64, first bool) error {
	mine := newContent(t.pool, sendSeed)
	check := checker{want: newContent(t.pool, receiveSeed), total: n}
	b := make([]byte, 1)
	for i := range n {
		for _, sending := range []bool{first, !first} {
			if sending {
				_, _ = mine.Read(b)
				if err := t.write(b); err != nil {
					return err
				}
				continue
			}
			if k, err := t.read(b); k == 0 {
				if errors.Is(err, io.EOF) {
					return fmt.Errorf("%w: after %d of %d single bytes", errCleanEnd, i, n)
				}
				return err
			}
			if err := check.check(b); err != nil {
				return err
			}
			t.got++
		}
	}
	if err := t.conn.CloseWrite(); err != nil {
		return err
	}
	if k, err := t.read(b); k > 0 {
		return fmt.Errorf("%w: bytes after the last one", errWrongByte)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
