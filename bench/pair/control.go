package pair

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// SetBinary lets the gateway run another build from its next start on.
func (g *Gateway) SetBinary(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.binary = path
}

// PublicKey is the public half of the gateway's private.key.
func (g *Gateway) PublicKey() string { return g.publicKey }

// Reload lets the running process read its configuration again. It does not wait until that is done.
func (g *Gateway) Reload() error { return g.Signal(syscall.SIGHUP) }

// NewKey replaces private.key by a new one, for the next start, and returns its public half.
func (g *Gateway) NewKey(ctx context.Context) (string, error) {
	if err := os.Remove(filepath.Join(g.dir, "private.key")); err != nil {
		return "", fmt.Errorf("pair: %w", err)
	}
	err := g.keygen(ctx)
	return g.publicKey, err
}
