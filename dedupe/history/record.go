package history

import (
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"
)

// ErrDamaged is what reading returns for bytes on disk that are not what was written.
var ErrDamaged = errors.New("damaged record")

// A block on disk, all integers big-endian:
//
//	0  "wpB1"
//	4  log id, 16 bytes
//	20 writer instance, u64
//	28 block number, u64
//	36 next (position + 1 where the flow goes on, or 0), u64
//	44 length, u32
//	48 xxHash64 of everything but this field, u64
//	56 the bytes
//
// A block of a scope begins with "wpB2", and its scope, u32, comes before the bytes.
const (
	blockMagic      = "wpB1"
	scopedMagic     = "wpB2"
	blockHeader     = 56
	scopedHeader    = blockHeader + 4
	blockSumAt      = 48
	maxAnchors      = BlockBytes // one per byte is more than any density gives; its list stays below MaxAnchorBytes
	metaRecord      = 32
	anchorHeader    = 20
	sidecarHeader   = 24
	sidecarMagic    = "wpE1"
	stateMagic      = "wpS1"
	cryptMagic      = "wpS2" // an encrypted state file: then what would be one in clear, encrypted
	stateRecord     = 4 + 2*(16+8+8) + 8
	maxBlocksSanity = 1 << 22 // blocks in one epoch: above the 131072 of 32 GiB by far
)

// sum hashes a record around its checksum field.
func sum(rec []byte, at int) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(rec[:at]) // never fails
	_, _ = d.Write(rec[at+8:])
	return d.Sum64()
}

// appendBlock appends a block's record.
func appendBlock(dst []byte, id LogID, writer, number uint64, about About, data []byte) []byte {
	n := len(dst)
	if about.Scope == 0 {
		dst = append(dst, blockMagic...)
	} else {
		dst = append(dst, scopedMagic...)
	}
	dst = append(dst, id[:]...)
	dst = binary.BigEndian.AppendUint64(dst, writer)
	dst = binary.BigEndian.AppendUint64(dst, number)
	dst = binary.BigEndian.AppendUint64(dst, about.Next)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	if about.Scope != 0 {
		dst = binary.BigEndian.AppendUint32(dst, about.Scope)
	}
	dst = append(dst, data...)
	binary.BigEndian.PutUint64(dst[n+blockSumAt:], sum(dst[n:], blockSumAt))
	return dst
}

// parseBlock checks a record and returns its bytes, which point into rec.
func parseBlock(rec []byte, id LogID, number uint64) (data []byte, about About, err error) {
	header := blockHeader
	if len(rec) >= scopedHeader && string(rec[:4]) == scopedMagic {
		header = scopedHeader
		about.Scope = binary.BigEndian.Uint32(rec[blockHeader:])
	}
	if len(rec) < header || len(rec) > header+BlockBytes || header == blockHeader && string(rec[:4]) != blockMagic ||
		header == scopedHeader && about.Scope == 0 || LogID(rec[4:20]) != id || binary.BigEndian.Uint64(rec[28:]) != number ||
		int(binary.BigEndian.Uint32(rec[44:])) != len(rec)-header ||
		binary.BigEndian.Uint64(rec[blockSumAt:]) != sum(rec, blockSumAt) {
		return nil, About{}, ErrDamaged
	}
	about.Next = binary.BigEndian.Uint64(rec[36:])
	return rec[header:], about, nil
}

// appendMeta appends the 32-byte entry of an epoch's list of blocks: number, length, 12 spare bytes, checksum.
func appendMeta(dst []byte, number uint64, length int) []byte {
	n := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, number)
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	dst = append(dst, make([]byte, 12)...)
	return binary.BigEndian.AppendUint64(dst, xxhash.Sum64(dst[n:]))
}

// parseMeta reads one entry.
func parseMeta(rec []byte) (number uint64, length int, ok bool) {
	if len(rec) != metaRecord || binary.BigEndian.Uint64(rec[24:]) != xxhash.Sum64(rec[:24]) {
		return 0, 0, false
	}
	n := binary.BigEndian.Uint32(rec[8:])
	return binary.BigEndian.Uint64(rec), int(n), n <= BlockBytes
}

// appendAnchors appends a block's anchor list: number u64, count u32, checksum u64, words.
func appendAnchors(dst []byte, number uint64, packed []uint64) []byte {
	n := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, number)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(packed)))
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, v := range packed {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	binary.BigEndian.PutUint64(dst[n+12:], sum(dst[n:], 12))
	return dst
}

// anchorBytes reads the length of the whole record off its header, false when it is impossible.
func anchorBytes(header []byte) (int, bool) {
	n := binary.BigEndian.Uint32(header[8:])
	return anchorHeader + 8*int(n), n <= maxAnchors
}

// anchorsValid checks a whole record.
func anchorsValid(rec []byte) bool {
	if len(rec) < anchorHeader {
		return false
	}
	n, ok := anchorBytes(rec)
	return ok && n == len(rec) && binary.BigEndian.Uint64(rec[12:]) == sum(rec, 12)
}

// nextAnchors cuts the first record off a sequence of records; nil when there is none.
func nextAnchors(b []byte) (rec, rest []byte) {
	if len(b) < anchorHeader {
		return nil, nil
	}
	n, ok := anchorBytes(b)
	if !ok || n > len(b) {
		return nil, nil
	}
	return b[:n], b[n:]
}

// parseAnchors reads a whole record.
func parseAnchors(rec []byte) (number uint64, packed []uint64, ok bool) {
	if !anchorsValid(rec) {
		return 0, nil, false
	}
	packed = make([]uint64, 0, (len(rec)-anchorHeader)/8)
	for b := rec[anchorHeader:]; len(b) > 0; b = b[8:] {
		packed = append(packed, binary.BigEndian.Uint64(b))
	}
	return binary.BigEndian.Uint64(rec), packed, true
}

// appendState appends the file that names the two logs.
func appendState(dst []byte, logs [2]State) []byte {
	n := len(dst)
	dst = append(dst, stateMagic...)
	for _, l := range logs {
		dst = append(dst, l.ID[:]...)
		dst = binary.BigEndian.AppendUint64(dst, l.Tail)
		dst = binary.BigEndian.AppendUint64(dst, l.Head)
	}
	return binary.BigEndian.AppendUint64(dst, xxhash.Sum64(dst[n:]))
}

// parseState reads it.
func parseState(rec []byte) (logs [2]State, ok bool) {
	if len(rec) != stateRecord || string(rec[:4]) != stateMagic ||
		binary.BigEndian.Uint64(rec[stateRecord-8:]) != xxhash.Sum64(rec[:stateRecord-8]) {
		return logs, false
	}
	b := rec[4:]
	for i := range logs {
		logs[i] = State{LogID(b[:16]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])}
		b = b[32:]
		if logs[i].Tail > logs[i].Head {
			return logs, false
		}
	}
	return logs, true
}

// cryptState makes the file that names the two logs.
func cryptState(logs [2]State, c crypt) []byte {
	rec := appendState(nil, logs)
	if !c.on() {
		return rec
	}
	return c.append([]byte(cryptMagic), rec, aboutState)
}

// openState reads it. A file in clear is not accepted where it ought to be encrypted, nor the other way round.
func openState(rec []byte, c crypt) (logs [2]State, ok bool) {
	if c.on() {
		if !stateEncrypted(rec) {
			return logs, false
		}
		var err error
		if rec, err = c.open(nil, rec[len(cryptMagic):], aboutState); err != nil {
			return logs, false
		}
	}
	return parseState(rec)
}

// stateEncrypted tells whether a state file looks like an encrypted one.
func stateEncrypted(rec []byte) bool {
	return len(rec) >= len(cryptMagic) && string(rec[:len(cryptMagic)]) == cryptMagic
}
