package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// ErrKey is wrapped by every error about a private or public key.
var ErrKey = errors.New("unusable key")

// FormatPrivateKey writes a private key as it stands in its file: the 32-byte Ed25519 seed in base64, one line, with its newline.
func FormatPrivateKey(key ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(key.Seed()) + "\n"
}

// ParsePrivateKey reads what FormatPrivateKey wrote. Its errors never quote the text.
func ParsePrivateKey(text string) (ed25519.PrivateKey, error) {
	seed, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%w: a private key is one line of base64 for %d bytes, as wanpair keygen writes it", ErrKey, ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// FormatPublicKey writes a public key as it stands in a peer's public_keys: base64, without a newline.
func FormatPublicKey(key ed25519.PublicKey) string {
	return base64.StdEncoding.EncodeToString(key)
}

// ParsePublicKey reads what FormatPublicKey wrote.
func ParsePublicKey(text string) (ed25519.PublicKey, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: %q is no public key, which is base64 for %d bytes as wanpair keygen prints it", ErrKey, text, ed25519.PublicKeySize)
	}
	return key, nil
}

// keyFileLimit bounds what is read of a key file: the key, its newline and a generous margin for white space.
const keyFileLimit = 4096

// ReadPrivateKey reads a private key file. It refuses a file that group or others may access.
func ReadPrivateKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s does not exist: make it with wanpair keygen -o %s", ErrKey, path, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrKey, path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: %s has mode %04o, so others than its owner may use it: chmod 600 %s", ErrKey, path, info.Mode().Perm(), path)
	case info.Size() > keyFileLimit:
		return nil, fmt.Errorf("%w: %s is too large for a key file", ErrKey, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	key, err := ParsePrivateKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// WritePrivateKey creates a private key file with mode 0600. It never overwrites one.
func WritePrivateKey(path string, key ed25519.PrivateKey) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s exists and is not overwritten: remove it first if the old key is really not wanted", ErrKey, path)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if _, err = f.WriteString(FormatPrivateKey(key)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // half a key file is worse than none
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	return nil
}
