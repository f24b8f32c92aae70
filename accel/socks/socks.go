// Package socks speaks the server's side of SOCKS 5 (RFC 1928): the greeting, the request and the reply, and nothing else.
//
// It owns the bytes of the handshake. Only "no authentication" and CONNECT are offered: who may connect is decided by the listener's
// address list. A handshake is at most 262 bytes per message and is read without taking a byte too many, so what the client sends behind
// it stays in the socket.
package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// Errors of a handshake. After each the right answer has been sent as far as the protocol has one, and the connection is to be closed.
var (
	ErrVersion = errors.New("not SOCKS 5")
	ErrMethod  = errors.New("the client offers no method we take: only \"no authentication\" is")
	ErrCommand = errors.New("only CONNECT is served")
	ErrAddress = errors.New("malformed address")
)

// Reply is the server's answer to a request (RFC 1928, section 6).
type Reply byte

// The replies.
const (
	Succeeded       Reply = 0
	Failure         Reply = 1
	NotAllowed      Reply = 2
	HostUnreachable Reply = 4
	Refused         Reply = 5
	BadCommand      Reply = 7
	BadAddressType  Reply = 8
)

const (
	version       = 5
	methodNone    = 0
	methodRefused = 0xff
	commandTCP    = 1
	typeIPv4      = 1
	typeName      = 3
	typeIPv6      = 4
)

// ReadRequest does the handshake up to the client's CONNECT and returns its target as host:port; the host is a name or an address. The
// caller bounds it in time and sends the reply.
func ReadRequest(rw io.ReadWriter) (target string, err error) {
	if err := greet(rw); err != nil {
		return "", err
	}
	var head [4]byte // version, command, reserved, address type
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return "", fmt.Errorf("socks request: %w", err)
	}
	if head[0] != version {
		return "", ErrVersion
	}
	host, known, err := readHost(rw, head[3])
	if err != nil {
		if !known {
			err = errors.Join(err, WriteReply(rw, BadAddressType, netip.AddrPort{}))
		}
		return "", err
	}
	var port [2]byte
	if _, err := io.ReadFull(rw, port[:]); err != nil {
		return "", fmt.Errorf("socks port: %w", err)
	}
	if head[1] != commandTCP {
		return "", errors.Join(ErrCommand, WriteReply(rw, BadCommand, netip.AddrPort{}))
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), nil
}

func greet(rw io.ReadWriter) error {
	var head [2]byte // version, number of methods
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return fmt.Errorf("socks greeting: %w", err)
	}
	if head[0] != version {
		return ErrVersion
	}
	var methods [255]byte
	if _, err := io.ReadFull(rw, methods[:head[1]]); err != nil {
		return fmt.Errorf("socks methods: %w", err)
	}
	for _, m := range methods[:head[1]] {
		if m == methodNone {
			_, err := rw.Write([]byte{version, methodNone})
			return err
		}
	}
	_, err := rw.Write([]byte{version, methodRefused})
	return errors.Join(ErrMethod, err)
}

// readHost reads an address; known says whether its type was one of the protocol's.
func readHost(r io.Reader, kind byte) (host string, known bool, err error) {
	var b [255]byte
	switch kind {
	case typeIPv4:
		_, err = io.ReadFull(r, b[:4])
		return netip.AddrFrom4([4]byte(b[:4])).String(), true, err
	case typeIPv6:
		_, err = io.ReadFull(r, b[:16])
		return netip.AddrFrom16([16]byte(b[:16])).Unmap().String(), true, err
	case typeName:
		if _, err = io.ReadFull(r, b[:1]); err != nil {
			return "", true, err
		}
		n := int(b[0])
		if _, err = io.ReadFull(r, b[:n]); err != nil {
			return "", true, err
		}
		for _, c := range b[:n] {
			if c <= ' ' || c >= 0x7f || c == ':' || c == '/' {
				return "", true, fmt.Errorf("%w: character %#x in a name", ErrAddress, c)
			}
		}
		if n == 0 {
			return "", true, fmt.Errorf("%w: empty name", ErrAddress)
		}
		return string(b[:n]), true, nil
	default:
		return "", false, fmt.Errorf("%w: type %d", ErrAddress, kind)
	}
}

// WriteReply answers a request. bound is the far gateway's side of the connection; the zero value is written as 0.0.0.0:0.
func WriteReply(w io.Writer, r Reply, bound netip.AddrPort) error {
	out := []byte{version, byte(r), 0}
	addr := bound.Addr().Unmap()
	if addr.Is6() {
		b := addr.As16()
		out = append(append(out, typeIPv6), b[:]...)
	} else {
		var b [4]byte
		if addr.Is4() {
			b = addr.As4()
		}
		out = append(append(out, typeIPv4), b[:]...)
	}
	_, err := w.Write(binary.BigEndian.AppendUint16(out, bound.Port()))
	return err
}
