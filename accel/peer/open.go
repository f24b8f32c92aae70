package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Kind says what a flow is and how the far side reaches its target (protocol C1).
type Kind uint8

// The kinds of flows.
const (
	Intercepted Kind = 1 // the far side dials Target as Client
	Forward     Kind = 2 // the far side dials TargetName from its own address
	echo        Kind = 3 // proof of work, never leaves the far gateway
	Warm        Kind = 4 // fills both histories: the far side verifies what comes, keeps it in its history and delivers it nowhere
)

// OpenRequest is what the first frame of a flow says (protocol C1).
type OpenRequest struct {
	Kind       Kind
	Client     netip.AddrPort
	Target     netip.AddrPort // Intercepted: the original destination
	TargetName string         // Forward: host:port, at most 1024 bytes
	Class      string
	Relay      bool // both directions are passed on as they are
	NoHistory  bool // both directions are compressed only: neither stored nor looked up; a peer that does not know it relays
	// Scope is the history that both directions have part in, 0 that of all flows that name none. With a peer
	// that does not know scopes the flow has none: NoHistory.
	Scope uint32
}

// ErrOpenBody is wrapped by every error about a malformed OPEN body.
var ErrOpenBody = errors.New("malformed open body")

const (
	maxNameBytes = 1024
	keyClass     = 2
	keyRelay     = 6
	keyNoHistory = 8
	keyScope     = 10
)

// appendOpen appends the body of an OPEN frame.
func appendOpen(dst []byte, r OpenRequest) ([]byte, error) {
	dst = append(dst, byte(r.Kind))
	switch r.Kind {
	case Intercepted:
		if !r.Client.IsValid() || !r.Target.IsValid() {
			return nil, fmt.Errorf("%w: client or target missing", ErrOpenBody)
		}
		dst = appendAddrPort(dst, r.Client)
		dst = appendAddrPort(dst, r.Target)
	case Forward:
		if !r.Client.IsValid() || len(r.TargetName) == 0 || len(r.TargetName) > maxNameBytes {
			return nil, fmt.Errorf("%w: client or target name missing or too long", ErrOpenBody)
		}
		dst = appendAddrPort(dst, r.Client)
		dst = binary.AppendUvarint(dst, uint64(len(r.TargetName)))
		dst = append(dst, r.TargetName...)
	case echo, Warm:
	default:
		return nil, fmt.Errorf("%w: kind %d", ErrOpenBody, r.Kind)
	}
	if r.Class != "" && len(r.Class) <= maxNameBytes {
		dst = binary.AppendUvarint(dst, keyClass)
		dst = binary.AppendUvarint(dst, uint64(len(r.Class)))
		dst = append(dst, r.Class...)
	}
	if r.Relay || r.NoHistory {
		dst = append(dst, keyRelay, 1, 1) // key, length, value
	}
	if r.NoHistory && !r.Relay {
		dst = append(dst, keyNoHistory, 1, 1)
	}
	if r.Scope != 0 && !r.Relay && !r.NoHistory {
		dst = binary.BigEndian.AppendUint32(append(dst, keyScope, 4), r.Scope)
	}
	return dst, nil
}

// parseOpen reads the body of an OPEN frame.
func parseOpen(b []byte) (OpenRequest, error) {
	var r OpenRequest
	if len(b) == 0 {
		return r, fmt.Errorf("%w: empty", ErrOpenBody)
	}
	r.Kind, b = Kind(b[0]), b[1:]
	var err error
	switch r.Kind {
	case Intercepted:
		if r.Client, b, err = cutAddrPort(b); err != nil {
			return r, fmt.Errorf("client: %w", err)
		}
		if r.Target, b, err = cutAddrPort(b); err != nil {
			return r, fmt.Errorf("target: %w", err)
		}
		if r.Client.Addr().Is4() != r.Target.Addr().Is4() {
			return r, fmt.Errorf("%w: client and target of different families", ErrOpenBody)
		}
	case Forward:
		if r.Client, b, err = cutAddrPort(b); err != nil {
			return r, fmt.Errorf("client: %w", err)
		}
		var name []byte
		if name, b, err = cutBytes(b); err != nil || len(name) == 0 {
			return r, fmt.Errorf("%w: target name", ErrOpenBody)
		}
		r.TargetName = string(name)
	case echo, Warm:
	default:
		return r, fmt.Errorf("%w: kind %d", ErrOpenBody, r.Kind)
	}
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return r, fmt.Errorf("%w: field key", ErrOpenBody)
		}
		var value []byte
		if value, b, err = cutBytes(b[n:]); err != nil {
			return r, fmt.Errorf("field %d: %w", key, err)
		}
		switch {
		case key == keyClass:
			r.Class = string(value)
		case key == keyRelay:
			r.Relay = len(value) == 1 && value[0] == 1
		case key == keyNoHistory:
			r.NoHistory = len(value) == 1 && value[0] == 1
		case key == keyScope && len(value) == 4:
			r.Scope = binary.BigEndian.Uint32(value)
		case key&1 == 1:
			return r, fmt.Errorf("%w: unknown field %d", ErrOpenBody, key)
		}
	}
	r.Relay = r.Relay && !r.NoHistory
	if r.Relay || r.NoHistory {
		r.Scope = 0
	}
	return r, nil
}

func cutBytes(b []byte) (value, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > maxNameBytes || n > uint64(len(b)-k) {
		return nil, nil, fmt.Errorf("%w: length", ErrOpenBody)
	}
	return b[k : k+int(n)], b[k+int(n):], nil
}

func appendAddrPort(dst []byte, a netip.AddrPort) []byte {
	addr := a.Addr().Unmap().WithZone("")
	if addr.Is4() {
		dst = append(dst, 4)
	} else {
		dst = append(dst, 6)
	}
	dst = append(dst, addr.AsSlice()...)
	return binary.BigEndian.AppendUint16(dst, a.Port())
}

func cutAddrPort(b []byte) (netip.AddrPort, []byte, error) {
	size := 0
	if len(b) > 0 {
		switch b[0] {
		case 4:
			size = 4
		case 6:
			size = 16
		}
	}
	if size == 0 || len(b) < 1+size+2 {
		return netip.AddrPort{}, nil, fmt.Errorf("%w: address", ErrOpenBody)
	}
	addr, _ := netip.AddrFromSlice(b[1 : 1+size])
	if addr.Is4In6() {
		return netip.AddrPort{}, nil, fmt.Errorf("%w: IPv4 address written as IPv6", ErrOpenBody)
	}
	port := binary.BigEndian.Uint16(b[1+size:])
	return netip.AddrPortFrom(addr, port), b[1+size+2:], nil
}

// appendAnswer appends the responder's OPEN body (protocol C2): connected, from local.
func appendAnswer(dst []byte, local netip.AddrPort) []byte {
	return appendAddrPort(append(dst, 0), local)
}

// parseAnswer reads the responder's OPEN body.
func parseAnswer(b []byte) (netip.AddrPort, error) {
	if len(b) == 0 || b[0] != 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: answer", ErrOpenBody)
	}
	local, _, err := cutAddrPort(b[1:])
	return local, err
}
