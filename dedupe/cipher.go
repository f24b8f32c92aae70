package dedupe

import (
	"bytes"
	"encoding/binary"
)

// cipher watches one direction of a flow for ciphertext that names itself: TLS records (RFC 8446, section 5.1), also when they begin in the
// middle of a stream as after STARTTLS or an SSLRequest, and SSH packets after the key exchange (RFC 4253, section 7.3). What is encrypted
// gains nothing from history or zstd and only fills the cache with noise.
type cipher struct {
	kind   cipherKind
	header [6]byte // of the next record or packet, as far as it has been seen
	have   int
	skip   int  // bytes until the next header
	seen   bool // the first bytes of the direction were looked at
	hidden bool // the key exchange is over
}

type cipherKind uint8

const (
	plainText cipherKind = iota
	tlsRecords
	sshBanner
	sshPackets
)

// Record types and limits.
const (
	tlsHandshake     = 22
	tlsData          = 23
	tlsChangeCipher  = 20
	tlsHeartbeat     = 24
	maxTLSRecord     = 1<<14 + 2048
	sshNewKeys       = 21
	maxSSHPacket     = 35000
	maxSSHBanner     = 255
	tlsHeaderBytes   = 5
	sshHeaderBytes   = 6 // packet length, padding length, message number
	sshPacketOverlap = 2 // of the header's bytes, those that the packet length counts
)

// feed looks at the next bytes of the direction and tells whether they are to be taken for ciphertext as a whole.
func (w *cipher) feed(p []byte) bool {
	if len(p) == 0 {
		return w.hidden
	}
	if w.kind == plainText {
		w.begin(p)
	}
	w.seen = true
	if w.kind == plainText {
		return false
	}
	was := w.hidden
	w.walk(p)
	// The frame in which the key exchange ends still has clear parts worth keeping, unless it is nearly over.
	return w.hidden && (was || w.skip > len(p)/2)
}

// begin recognises the first bytes of a handshake.
func (w *cipher) begin(p []byte) {
	switch {
	case len(p) >= 6 && p[0] == tlsHandshake && p[1] == 3 && p[2] <= 4 && (p[5] == 1 || p[5] == 2) && binary.BigEndian.Uint16(p[3:]) <= maxTLSRecord:
		*w = cipher{kind: tlsRecords}
	case !w.seen && (bytes.HasPrefix(p, []byte("SSH-2.0-")) || bytes.HasPrefix(p, []byte("SSH-1.99-"))):
		*w = cipher{kind: sshBanner, skip: maxSSHBanner}
	}
}

// lost gives up: the stream is not what it seemed to be.
func (w *cipher) lost() { *w = cipher{seen: true} }

// walk follows records from header to header.
func (w *cipher) walk(p []byte) {
	for len(p) > 0 && w.kind != plainText {
		switch {
		case w.kind == sshPackets && w.hidden:
			return // even the packet lengths are encrypted
		case w.kind == sshBanner:
			i := bytes.IndexByte(p, '\n')
			if i < 0 || i >= w.skip {
				if w.skip -= len(p); w.skip <= 0 || i >= 0 {
					w.lost()
				}
				return
			}
			p = p[i+1:]
			w.kind, w.skip = sshPackets, 0
		case w.skip > 0:
			n := min(w.skip, len(p))
			w.skip -= n
			p = p[n:]
		default:
			want := tlsHeaderBytes
			if w.kind == sshPackets {
				want = sshHeaderBytes
			}
			n := copy(w.header[w.have:want], p)
			w.have += n
			p = p[n:]
			if w.have == want {
				w.have = 0
				w.record()
			}
		}
	}
}

// record takes a whole header.
func (w *cipher) record() {
	if w.kind == sshPackets {
		n := binary.BigEndian.Uint32(w.header[:])
		if n < sshPacketOverlap || n > maxSSHPacket {
			w.lost()
			return
		}
		w.skip = int(n) - sshPacketOverlap
		w.hidden = w.header[5] == sshNewKeys
		return
	}
	kind, n := w.header[0], int(binary.BigEndian.Uint16(w.header[3:]))
	if kind < tlsChangeCipher || kind > tlsHeartbeat || w.header[1] != 3 || w.header[2] > 4 || n > maxTLSRecord {
		w.lost()
		return
	}
	w.skip = n
	w.hidden = w.hidden || kind == tlsData
}
