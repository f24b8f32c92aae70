package transport

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// ProtocolVersion is the one version this package speaks.
const ProtocolVersion = 1

// Role of a gateway among the boxes of its site.
type Role uint8

// The roles of docs/protocol.md, A3.
const (
	RoleSingle   Role = 0
	RoleActive   Role = 1
	RoleStandby  Role = 2
	RoleDraining Role = 3
)

// Feature bits of the hello.
const (
	FeatureUnackedReferences uint64 = 1 << 0 // references to unacknowledged bytes
	FeatureStreamingLiterals uint64 = 1 << 1 // streaming literal contexts
	FeatureRepair            uint64 = 1 << 2 // NEED and BYTES
	FeatureFrameAcks         uint64 = 1 << 3 // acknowledgements in frames
	FeatureWarm              uint64 = 1 << 4 // takes flows that only fill the history
	FeatureScopes            uint64 = 1 << 5 // keeps histories of their own apart
)

// Hello is what each side of a lane says of itself first; docs/protocol.md, A3.
// In [LinkConfig] the fields Instance, PeerInstance, Lane, Lanes,
// InitialCredit, Floors, WallClock and the versions are filled in by the link.
type Hello struct {
	MinVersion, MaxVersion uint64
	Features               uint64
	Instance               [16]byte // random; a new one for every process and every session this side ended itself
	PeerInstance           [16]byte // the instance this side's session is with; zero when it has none
	Lane, Lanes            uint64   // number of this lane, lanes wanted
	Role                   Role
	InitialCredit          uint64 // raw bytes a new flow may send before the first ACK
	Floors                 uint64 // flows for which this side can reserve a floor
	Site                   string
	OwnSubnets             []netip.Prefix
	PeerSubnets            []netip.Prefix // the other side's, as configured here
	OwnAddrs               []netip.Addr   // always passed raw by the other side
	WallClock              time.Time
	Software               string
}

var helloMagic = [4]byte{'W', 'P', 'R', '1'}

// Keys of the hello's fields. Even ones may be ignored by who does not know them.
const (
	helloVersion      = 1
	helloFeatures     = 2
	helloInstance     = 3
	helloSite         = 4
	helloPeerInstance = 5
	helloOwnSubnets   = 6
	helloLane         = 7
	helloPeerSubnets  = 8
	helloRole         = 9
	helloOwnAddrs     = 10
	helloCredit       = 11
	helloWallClock    = 12
	helloFloors       = 13
	helloSoftware     = 14
)

// appendHello appends the body of a HELLO record.
func appendHello(dst []byte, h *Hello) []byte {
	dst = append(dst, helloMagic[:]...)
	var v []byte
	put := func(key uint64) {
		dst = binary.AppendUvarint(dst, key)
		dst = binary.AppendUvarint(dst, uint64(len(v)))
		dst = append(dst, v...)
		v = v[:0]
	}
	v = binary.AppendUvarint(binary.AppendUvarint(v, h.MinVersion), h.MaxVersion)
	put(helloVersion)
	v = binary.AppendUvarint(v, h.Features)
	put(helloFeatures)
	v = append(v, h.Instance[:]...)
	put(helloInstance)
	v = append(v, h.PeerInstance[:]...)
	put(helloPeerInstance)
	v = binary.AppendUvarint(binary.AppendUvarint(v, h.Lane), h.Lanes)
	put(helloLane)
	v = append(v, byte(h.Role))
	put(helloRole)
	v = binary.AppendUvarint(v, h.InitialCredit)
	put(helloCredit)
	v = binary.AppendUvarint(v, h.Floors)
	put(helloFloors)
	v = appendStr(v, h.Site)
	put(helloSite)
	for _, p := range h.OwnSubnets[:min(len(h.OwnSubnets), maxPrefixes)] {
		v = appendPrefix(v, p)
	}
	put(helloOwnSubnets)
	for _, p := range h.PeerSubnets[:min(len(h.PeerSubnets), maxPrefixes)] {
		v = appendPrefix(v, p)
	}
	put(helloPeerSubnets)
	for _, a := range h.OwnAddrs[:min(len(h.OwnAddrs), maxPrefixes)] {
		v = appendAddr(v, a)
	}
	put(helloOwnAddrs)
	if !h.WallClock.IsZero() {
		v = binary.BigEndian.AppendUint64(v, uint64(h.WallClock.UnixNano()))
		put(helloWallClock)
	}
	v = appendStr(v, h.Software)
	put(helloSoftware)
	return dst
}

// parseHello reads the body of a HELLO record. The result shares no memory
// with b.
func parseHello(b []byte) (Hello, error) {
	var h Hello
	c := cursor{b: b}
	if magic := c.bytes(4); magic == nil || [4]byte(magic) != helloMagic {
		return h, malformed("hello without its magic")
	}
	var seen uint64
	for c.err == nil && len(c.b) > 0 {
		key := c.uv()
		v := cursor{b: c.bytes(c.bounded(maxRecordBytes, "hello field too long"))}
		if c.err != nil {
			break
		}
		if key < 64 {
			if seen&(1<<key) != 0 {
				return h, malformed(fmt.Sprintf("hello field %d twice", key))
			}
			seen |= 1 << key
		}
		known := h.parseField(key, &v)
		if !known {
			if key&1 == 1 {
				return h, malformed(fmt.Sprintf("unknown hello field %d", key))
			}
			continue
		}
		if err := v.end(); err != nil {
			return h, fmt.Errorf("hello field %d: %w", key, err)
		}
	}
	if err := c.end(); err != nil {
		return h, fmt.Errorf("hello: %w", err)
	}
	const must = 1<<helloVersion | 1<<helloInstance | 1<<helloPeerInstance
	if seen&must != must {
		return h, malformed("hello without version or instances")
	}
	if h.Instance == ([16]byte{}) {
		return h, malformed("hello with a zero instance")
	}
	return h, nil
}

func (h *Hello) parseField(key uint64, v *cursor) (known bool) {
	switch key {
	case helloVersion:
		h.MinVersion, h.MaxVersion = v.uv(), v.uv()
		if h.MinVersion > h.MaxVersion {
			v.fail(malformed("lowest version above the highest"))
		}
	case helloFeatures:
		h.Features = v.uv()
	case helloInstance:
		copy(h.Instance[:], v.bytes(16))
	case helloPeerInstance:
		copy(h.PeerInstance[:], v.bytes(16))
	case helloLane:
		h.Lane, h.Lanes = v.uv(), v.uv()
	case helloRole:
		h.Role = Role(v.u8())
		if h.Role > RoleDraining {
			v.fail(malformed("unknown role"))
		}
	case helloCredit:
		h.InitialCredit = v.bounded(maxInitialCredit, "initial credit above its bound")
	case helloFloors:
		h.Floors = v.uv()
	case helloSite:
		h.Site = v.str()
	case helloOwnSubnets:
		h.OwnSubnets = parsePrefixes(v)
	case helloPeerSubnets:
		h.PeerSubnets = parsePrefixes(v)
	case helloOwnAddrs:
		for len(v.b) > 0 && v.err == nil {
			if len(h.OwnAddrs) == maxPrefixes {
				v.fail(malformed("too many addresses"))
				break
			}
			h.OwnAddrs = append(h.OwnAddrs, v.addr())
		}
	case helloWallClock:
		h.WallClock = time.Unix(0, int64(v.u64()))
	case helloSoftware:
		h.Software = v.str()
	default:
		return false
	}
	return true
}

func parsePrefixes(v *cursor) (list []netip.Prefix) {
	for len(v.b) > 0 && v.err == nil {
		if len(list) == maxPrefixes {
			v.fail(malformed("too many prefixes"))
			break
		}
		list = append(list, v.prefix())
	}
	return list
}
