package intercept

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// maxNetlinkFD is the highest descriptor a netlink socket may get: the nftables library waits with select(2), whose sets end at 1023, and
// takes the process down beyond. A gateway with many connections is there soon.
const maxNetlinkFD = 900

// errDescriptors says that no low descriptor was left for a netlink socket.
var errDescriptors = errors.New("intercept: too many open files to speak to nftables")

// kernel is the way to nftables: one socket that is opened while descriptors are few and kept.
type kernel struct {
	mu   sync.Mutex
	conn *nftables.Conn // nil before the first use, and after a fault
}

// open returns the kept socket. Called with mu held.
func (k *kernel) open() (*nftables.Conn, error) {
	if k.conn != nil {
		return k.conn, nil
	}
	null, err := os.Open(os.DevNull) // which descriptor would be next?
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDescriptors, err)
	}
	next := null.Fd()
	_ = null.Close()
	if next > maxNetlinkFD {
		return nil, fmt.Errorf("%w: the next one would be number %d", errDescriptors, next)
	}
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	k.conn = c
	return c, nil
}

// drop closes a socket that may hold half a conversation; the next one takes its place among the low descriptors. Called with mu held.
func (k *kernel) drop() {
	if k.conn != nil {
		_ = k.conn.CloseLasting()
		k.conn = nil
	}
}

// transact sends what build puts together as one transaction.
func (k *kernel) transact(build func(c *nftables.Conn) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.open()
	if err != nil {
		return err
	}
	if err := build(c); err != nil {
		k.drop() // it holds the messages built so far
		return err
	}
	return k.judge(c.Flush())
}

// read asks something.
func (k *kernel) read(ask func(c *nftables.Conn) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.open()
	if err != nil {
		return err
	}
	return k.judge(ask(c))
}

// judge keeps the socket after answers that are part of the game.
func (k *kernel) judge(err error) error {
	if err != nil && !errors.Is(err, unix.ENOENT) {
		k.drop()
	}
	return err
}

// close gives the socket back.
func (k *kernel) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
}
