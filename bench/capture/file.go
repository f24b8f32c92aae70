package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrFormat is wrapped when a file is neither pcap nor pcapng, or is damaged.
var ErrFormat = errors.New("not a capture file that is understood")

// maxPacketBytes is more than any capture tool writes for one packet (libpcap's own bound is 256 KiB).
const maxPacketBytes = 1 << 20

// packet is one captured packet; data is valid until the next one is read.
type packet struct {
	at       time.Duration // since 1970
	linkType uint32
	data     []byte
}

// file reads packets from a pcap or pcapng file.
type file struct {
	in     *bufio.Reader
	order  binary.ByteOrder
	next   func() (packet, error)
	buffer []byte

	linkType   uint32        // pcap
	tick       time.Duration // pcap: unit of the fraction of a second
	interfaces []iface       // pcapng
}

// iface is an interface description of pcapng.
type iface struct {
	linkType uint32
	// perSecond is the resolution of timestamps.
	perSecond uint64
}

// Magic numbers of the two formats, from draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
const (
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
	magicNG    = 0x0a0d0d0a
	byteOrder  = 0x1a2b3c4d
)

func openFile(r io.Reader) (*file, error) {
	f := &file{in: bufio.NewReaderSize(r, 1<<20)}
	head, err := f.in.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head) {
		case magicMicro, magicNano:
			f.order, f.next = order, f.nextPcap
			f.tick = time.Microsecond
			if order.Uint32(head) == magicNano {
				f.tick = time.Nanosecond
			}
			return f, f.pcapHeader()
		case magicNG:
			f.order, f.next = order, f.nextNG
			return f, nil
		}
	}
	return nil, fmt.Errorf("%w: it begins with %x", ErrFormat, head)
}

func (f *file) pcapHeader() error {
	var header [24]byte
	if err := f.full(header[:]); err != nil {
		return err
	}
	const linkTypeBits = 0x0fffffff // the rest says how frame check sequences are stored
	f.linkType = f.order.Uint32(header[20:]) & linkTypeBits
	return nil
}

// full reads exactly len(p) bytes; a file that ends in the middle of something is damaged.
func (f *file) full(p []byte) error {
	if _, err := io.ReadFull(f.in, p); err != nil {
		return fmt.Errorf("%w: cut short: %w", ErrFormat, err)
	}
	return nil
}

// take reads n bytes into the buffer that all packets share.
func (f *file) take(n uint32) ([]byte, error) {
	if n > maxPacketBytes {
		return nil, fmt.Errorf("%w: a packet of %d bytes", ErrFormat, n)
	}
	if int(n) > cap(f.buffer) {
		f.buffer = make([]byte, max(int(n), 64<<10))
	}
	f.buffer = f.buffer[:n]
	return f.buffer, f.full(f.buffer)
}

// end says whether the file ends cleanly here.
func (f *file) end() bool {
	_, err := f.in.Peek(1)
	return errors.Is(err, io.EOF)
}

func (f *file) nextPcap() (packet, error) {
	if f.end() {
		return packet{}, io.EOF
	}
	var header [16]byte
	if err := f.full(header[:]); err != nil {
		return packet{}, err
	}
	data, err := f.take(f.order.Uint32(header[8:]))
	at := time.Duration(f.order.Uint32(header[0:]))*time.Second + time.Duration(f.order.Uint32(header[4:]))*f.tick
	return packet{at: at, linkType: f.linkType, data: data}, err
}

// Block types of pcapng.
const (
	blockInterface = 1
	blockSimple    = 3
	blockEnhanced  = 6
)

func (f *file) nextNG() (packet, error) {
	for {
		if f.end() {
			return packet{}, io.EOF
		}
		var header [8]byte
		if err := f.full(header[:]); err != nil {
			return packet{}, err
		}
		if f.order.Uint32(header[:]) == magicNG { // a section begins, perhaps in the other byte order
			if err := f.section(header[4:]); err != nil {
				return packet{}, err
			}
			continue
		}
		length := f.order.Uint32(header[4:])
		const frame = 12 // type, length and length again
		if length < frame || length%4 != 0 {
			return packet{}, fmt.Errorf("%w: a block of %d bytes", ErrFormat, length)
		}
		body, err := f.take(length - 8)
		if err != nil {
			return packet{}, err
		}
		body = body[:len(body)-4]
		switch f.order.Uint32(header[:]) {
		case blockInterface:
			if err := f.addInterface(body); err != nil {
				return packet{}, err
			}
		case blockEnhanced:
			return f.enhanced(body)
		case blockSimple:
			return f.simple(body)
		}
	}
}

// section reads the rest of a section header, whose length stands before the byte order that it is written in.
func (f *file) section(rawLength []byte) error {
	var magic [4]byte
	if err := f.full(magic[:]); err != nil {
		return err
	}
	switch {
	case binary.LittleEndian.Uint32(magic[:]) == byteOrder:
		f.order = binary.LittleEndian
	case binary.BigEndian.Uint32(magic[:]) == byteOrder:
		f.order = binary.BigEndian
	default:
		return fmt.Errorf("%w: byte order %x", ErrFormat, magic)
	}
	const least = 28
	length := f.order.Uint32(rawLength)
	if length < least || length%4 != 0 {
		return fmt.Errorf("%w: a section header of %d bytes", ErrFormat, length)
	}
	f.interfaces = f.interfaces[:0]
	_, err := f.take(length - 12)
	return err
}

func (f *file) addInterface(body []byte) error {
	const fixed = 8
	const most = 1 << 16
	if len(body) < fixed || len(f.interfaces) >= most {
		return fmt.Errorf("%w: interface description", ErrFormat)
	}
	i := iface{linkType: uint32(f.order.Uint16(body)), perSecond: 1e6}
	const optionResolution = 9
	for options := body[fixed:]; len(options) >= 4; {
		code, length := f.order.Uint16(options), int(f.order.Uint16(options[2:]))
		padded := (length + 3) &^ 3
		if code == 0 || 4+padded > len(options) {
			break
		}
		if code == optionResolution && length >= 1 {
			i.perSecond = resolution(options[4])
		}
		options = options[4+padded:]
	}
	f.interfaces = append(f.interfaces, i)
	return nil
}

// resolution reads if_tsresol: a negative power of ten, or of two when the top bit is set. What is finer than time.Duration counts as that.
func resolution(b byte) uint64 {
	exponent := b & 0x7f
	if b&0x80 != 0 {
		return 1 << min(exponent, 30)
	}
	v := uint64(1)
	for range min(exponent, 9) {
		v *= 10
	}
	return v
}

func (f *file) enhanced(body []byte) (packet, error) {
	const fixed = 20
	if len(body) < fixed {
		return packet{}, fmt.Errorf("%w: packet block of %d bytes", ErrFormat, len(body))
	}
	n, captured := f.order.Uint32(body), f.order.Uint32(body[12:])
	if uint64(n) >= uint64(len(f.interfaces)) || uint64(captured) > uint64(len(body)-fixed) {
		return packet{}, fmt.Errorf("%w: packet block", ErrFormat)
	}
	stamp := uint64(f.order.Uint32(body[4:]))<<32 | uint64(f.order.Uint32(body[8:]))
	per := f.interfaces[n].perSecond
	at := time.Duration(stamp/per)*time.Second + time.Duration(stamp%per*uint64(time.Second)/per)
	return packet{at: at, linkType: f.interfaces[n].linkType, data: body[fixed : fixed+captured]}, nil
}

func (f *file) simple(body []byte) (packet, error) {
	const fixed = 4
	if len(body) < fixed || len(f.interfaces) == 0 {
		return packet{}, fmt.Errorf("%w: simple packet block", ErrFormat)
	}
	original := f.order.Uint32(body)
	data := body[fixed:]
	if uint64(original) < uint64(len(data)) {
		data = data[:original]
	}
	return packet{linkType: f.interfaces[0].linkType, data: data}, nil
}
