package quictun

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/quic-go/quic-go"
)

// ALPN is the application protocol of every lane.
const ALPN = "wanpair/1"

// alertAccessDenied is the TLS alert for a key that is not listed (RFC 8446, 6).
const alertAccessDenied = tls.AlertError(49)

// ErrUnknownKey says that the other side presented a key that is not listed.
var ErrUnknownKey = errors.New("unknown public key")

// KeyString is how a public key is written in configurations and logs.
func KeyString(key ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

// selfSigned makes the certificate of a process: nothing in it matters but the
// key. It is valid for ever, clocks may be wrong.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	if len(key) != ed25519.PrivateKeySize {
		return tls.Certificate{}, errors.New("quictun: the private key is not an Ed25519 key")
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: no expiry
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("quictun: make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// resetKey is the key of our stateless resets (RFC 9000, 10.3). It follows from the private key, so that a process that was started again
// after a crash can tell the peer at once that the connections of the one before are no more; the peer would otherwise find out by
// waiting. Only the listening socket uses it: were it in use at two addresses, one could be asked to reset the other's connections
// (RFC 9000, 21.11).
func resetKey(key ed25519.PrivateKey) *quic.StatelessResetKey {
	derived, err := hkdf.Key(sha256.New, key.Seed(), nil, "wanpair stateless reset", len(quic.StatelessResetKey{}))
	if err != nil {
		panic(err) // the length is a constant within what HKDF gives
	}
	return (*quic.StatelessResetKey)(derived)
}

// pin is the SubjectPublicKeyInfo a peer may present.
type pin []byte

func makePin(key ed25519.PublicKey) (pin, error) {
	if len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("quictun: public key of %d bytes, want %d", len(key), ed25519.PublicKeySize)
	}
	return x509.MarshalPKIXPublicKey(key)
}

// match returns the index of the pinned key raw carries, -1 when there is none.
// Every pin is compared, in constant time.
func match(pins []pin, raw []byte) int {
	found := -1
	for i, p := range pins {
		if subtle.ConstantTimeCompare(p, raw) == 1 {
			found = i
		}
	}
	return found
}

// presentedKey reads the public key out of a certificate without trusting
// anything in it. TLS has proved that the other side holds the private key.
func presentedKey(certs [][]byte) (spki []byte, name string, err error) {
	if len(certs) != 1 {
		return nil, "", fmt.Errorf("%d certificates, want one: %w", len(certs), alertAccessDenied)
	}
	cert, err := x509.ParseCertificate(certs[0])
	if err != nil {
		return nil, "", fmt.Errorf("unreadable certificate: %w", alertAccessDenied)
	}
	name = "not an Ed25519 key"
	if key, ok := cert.PublicKey.(ed25519.PublicKey); ok {
		name = KeyString(key)
	}
	return cert.RawSubjectPublicKeyInfo, name, nil
}

// tlsConfig is what both sides of a lane share. verify gets the key presented.
func tlsConfig(cert tls.Certificate, verify func(spki []byte, name string) error) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // the key is pinned below, no name or authority is trusted
		SessionTicketsDisabled: true, // a resumed session would skip the check of the key
		VerifyPeerCertificate: func(certs [][]byte, _ [][]*x509.Certificate) error {
			spki, name, err := presentedKey(certs)
			if err != nil {
				return err
			}
			return verify(spki, name)
		},
	}
}
