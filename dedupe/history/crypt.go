package history

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// KeyBytes is the length of EpochsConfig.Key.
const KeyBytes = 32

// ErrKey means that a directory was written with another key, with none, or with one where none is given now.
var ErrKey = errors.New("cache was not written with this key")

// crypt encrypts and authenticates the records of one log with a key of its own: AES-256-GCM with random nonces (NIST SP 800-38D), of which 2^32
// are allowed per key, while a log of 1 TiB has some 2^23 records. The zero value leaves records as they are.
//
// Every record says what it is in the data that is authenticated along with it, so that none can pass for another one; which log it belongs to
// follows from the key.
type crypt struct{ aead cipher.AEAD }

// What a record is.
const (
	aboutState   = "state"
	aboutBlock   = "block"
	aboutAnchors = "anchors"
	aboutLength  = "length"
)

// newCrypt derives the key of a log from the key of the cache (HKDF, RFC 5869). The zero LogID is for the file that names the logs. No key makes the
// zero crypt.
func newCrypt(key []byte, id LogID) (crypt, error) {
	if len(key) == 0 {
		return crypt{}, nil
	}
	if len(key) != KeyBytes {
		return crypt{}, fmt.Errorf("cache key of %d bytes, not %d", len(key), KeyBytes)
	}
	k, err := hkdf.Key(sha256.New, key, id[:], "wanpair cache at rest", KeyBytes)
	if err != nil {
		return crypt{}, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return crypt{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return crypt{aead}, err
}

// newCrypts is newCrypt for both logs.
func newCrypts(key []byte, logs [2]State) (out [2]crypt, err error) {
	for log := range out {
		if out[log], err = newCrypt(key, logs[log].ID); err != nil {
			break
		}
	}
	return out, err
}

// on tells whether records are encrypted.
func (c crypt) on() bool { return c.aead != nil }

// overhead is how much longer a record is on disk.
func (c crypt) overhead() int {
	if c.aead == nil {
		return 0
	}
	return c.aead.Overhead()
}

// append appends a record as it goes to disk. about is what it is, and its block's key where there is one.
func (c crypt) append(dst, rec []byte, about string, key ...byte) []byte {
	if c.aead == nil {
		return append(dst, rec...)
	}
	return c.aead.Seal(dst, nil, rec, append([]byte(about), key...))
}

// open appends the record that append made of it to dst, or returns it as it is where nothing is encrypted.
func (c crypt) open(dst, rec []byte, about string, key ...byte) ([]byte, error) {
	if c.aead == nil {
		return append(dst, rec...), nil
	}
	out, err := c.aead.Open(dst, nil, rec, append([]byte(about), key...))
	if err != nil {
		return nil, ErrDamaged
	}
	return out, nil
}
