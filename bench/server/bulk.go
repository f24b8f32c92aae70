package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// bulkRequestBytes is what a receiver sends: offset and length, 64 bits each, big-endian.
const bulkRequestBytes = 16

// ErrRange is what a receiver gets that asks for bytes the file does not have.
var ErrRange = errors.New("bulk: outside of the file")

// Bulk sends parts of a file to whoever connects: the plainest server there is, with its own congestion control and buffers per socket.
type Bulk struct {
	place    Place
	listener *net.TCPListener
	file     *os.File
	size     int64
	work     sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool // nil when stopped
}

// StartBulk serves a file. The options are set on the listener; accepted sockets inherit them.
func StartBulk(ctx context.Context, place Place, path string, options SocketOptions) (*Bulk, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	listener, err := place.Listen(ctx, 0, options.apply)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	b := &Bulk{place: place, listener: listener, file: file, size: info.Size(), open: make(map[net.Conn]bool)}
	b.work.Go(b.accept)
	return b, nil
}

// accept ends when the listener is closed.
func (b *Bulk) accept() {
	for {
		conn, err := b.listener.AcceptTCP()
		if err != nil {
			return
		}
		b.mu.Lock()
		if b.open == nil {
			b.mu.Unlock()
			conn.Close()
			return
		}
		b.open[conn] = true
		b.mu.Unlock()
		b.work.Go(func() {
			b.serve(conn)
			b.mu.Lock()
			delete(b.open, conn)
			b.mu.Unlock()
		})
	}
}

// serve answers one request and closes. An answer that breaks off is seen by the receiver, who counts.
func (b *Bulk) serve(conn *net.TCPConn) {
	defer conn.Close()
	var request [bulkRequestBytes]byte
	if _, err := io.ReadFull(conn, request[:]); err != nil {
		return
	}
	offset, length := int64(binary.BigEndian.Uint64(request[:8])), int64(binary.BigEndian.Uint64(request[8:]))
	if offset < 0 || length < 0 || offset > b.size || length > b.size-offset {
		return
	}
	// The file is opened again, for its position is the descriptor's; so the copy is a sendfile.
	part, err := os.Open(b.file.Name())
	if err != nil {
		return
	}
	defer part.Close()
	if _, err := part.Seek(offset, io.SeekStart); err != nil {
		return
	}
	_, _ = io.Copy(conn, io.LimitReader(part, length))
}

// Size is the file's length.
func (b *Bulk) Size() int64 { return b.size }

// Address is where the sender listens.
func (b *Bulk) Address() string { return b.listener.Addr().String() }

// Receive connects from a place, takes length bytes from offset on, and hashes them.
func (b *Bulk) Receive(ctx context.Context, from Place, offset, length int64, options SocketOptions) (Output, error) {
	return b.ReceiveFrom(ctx, from, b.Address(), offset, length, options)
}

// ReceiveFrom is Receive by way of an address that leads to the sender.
func (b *Bulk) ReceiveFrom(ctx context.Context, from Place, address string, offset, length int64, options SocketOptions) (Output, error) {
	if offset < 0 || length < 0 || offset > b.size || length > b.size-offset {
		return Output{}, fmt.Errorf("%w: %d bytes from %d of %d", ErrRange, length, offset, b.size)
	}
	sum := sha256.New()
	m := &meter{w: sum, began: time.Now()}
	conn, err := from.Dial(ctx, address, options.apply)
	if err != nil {
		return Output{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(offset)), uint64(length))
	if _, err := conn.Write(request); err != nil {
		return Output{}, err
	}
	_, err = io.CopyBuffer(m, io.LimitReader(conn, length), make([]byte, 256<<10))
	out := Output{Bytes: m.n, SHA256: hex.EncodeToString(sum.Sum(nil)), FirstByte: m.first, Total: time.Since(m.began)}
	if err == nil && m.n < length {
		err = io.ErrUnexpectedEOF
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

// Hash returns what a receiver of these bytes must see.
func (b *Bulk) Hash(offset, length int64) (string, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, io.NewSectionReader(b.file, offset, length))
	if err == nil && n < length {
		err = ErrRange
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}

// Stop closes everything and waits.
func (b *Bulk) Stop() error {
	err := b.listener.Close()
	b.mu.Lock()
	for conn := range b.open {
		conn.Close()
	}
	b.open = nil
	b.mu.Unlock()
	b.work.Wait()
	return errors.Join(err, b.file.Close())
}
