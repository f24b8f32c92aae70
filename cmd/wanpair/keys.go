package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"

	"wanpair/accel/config"
)

type keygenCmd struct {
	Output string `short:"o" type:"path" placeholder:"FILE" help:"Write the private key to this file, with mode 0600. An existing file is never overwritten."`
}

// Run makes a key. With a file the public key goes to standard output; without one the private key does, and the public key to standard error, so that
// keygen > FILE works too.
func (c keygenCmd) Run(out output) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	if c.Output == "" {
		if _, err := fmt.Fprint(out.stdout, config.FormatPrivateKey(private)); err != nil {
			return err
		}
		_, err = fmt.Fprintln(out.stderr, "public key:", config.FormatPublicKey(public))
		return err
	}
	if err := config.WritePrivateKey(c.Output, private); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out.stdout, config.FormatPublicKey(public))
	return err
}

type pubkeyCmd struct{}

// keyInputLimit bounds what is read from standard input.
const keyInputLimit = 4096

// Run prints the public key of a private key.
func (pubkeyCmd) Run(out output) error {
	text, err := io.ReadAll(io.LimitReader(out.stdin, keyInputLimit))
	if err != nil {
		return fmt.Errorf("read the private key: %w", err)
	}
	private, err := config.ParsePrivateKey(string(text))
	if err != nil {
		return err
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("%w: it has no public key", config.ErrKey)
	}
	_, err = fmt.Fprintln(out.stdout, config.FormatPublicKey(public))
	return err
}
