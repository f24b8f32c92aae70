package corpus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// tlsSteps records the pictures on their way from a TLS 1.3 server: ciphertext as a link carries it.
func tlsSteps(cfg Config) []step {
	from, to := filepath.Join(cfg.Dir, "images", "images.tar"), filepath.Join(cfg.Dir, "images", "images.tls")
	return []step{{
		name: "images over TLS", files: []string{to}, weight: 1,
		make: func(ctx context.Context) error {
			return create(to, func(f *os.File) error { return recordTLS(ctx, from, f) })
		},
	}}
}

// recordTLS serves a file to a client over TLS 1.3 and writes all that the server sends to record.
func recordTLS(ctx context.Context, path string, record io.Writer) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	a, b := net.Pipe()
	defer context.AfterFunc(ctx, func() { _ = a.Close() })() // both ends then fail
	served := make(chan error, 1)
	go func() {
		server := tls.Server(recorded{a, record}, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
		_, err := io.Copy(server, in)
		served <- errors.Join(err, server.Close())
	}()
	client := tls.Client(b, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it talks to the goroutine above
	_, err = io.Copy(io.Discard, client)
	return errors.Join(err, b.Close(), <-served, ctx.Err())
}

// recorded is a connection whose written bytes are kept.
type recorded struct {
	net.Conn
	record io.Writer
}

func (r recorded) Write(b []byte) (int, error) {
	if _, err := r.record.Write(b); err != nil {
		return 0, fmt.Errorf("record: %w", err)
	}
	return r.Conn.Write(b)
}

// selfSigned makes a certificate for a server that nobody checks.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
