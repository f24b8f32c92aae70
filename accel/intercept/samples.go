package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sample is one connection that passed raw, as seen by its first packet.
type Sample struct {
	Client, Target netip.AddrPort
	Peer           string // the peer it would have gone to; "" when the reason has nothing to do with one
	Reason         string
}

// Of linux/include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	nfulMsgPacket  = unix.NFNL_SUBSYS_ULOG << 8
	nfulMsgConfig  = unix.NFNL_SUBSYS_ULOG<<8 | 1
	nfulCmdBind    = 1
	nfulCfgCmd     = 1
	nfulCfgMode    = 2
	nfulCfgTimeout = 4 // in 1/100 s
	nfulCopyPacket = 2
	nfulPayload    = 9
	nfulPrefix     = 10
	nfgenmsgLen    = 4
)

// Samples hands over a few raw connections per second and reason until ctx ends. A Config without interfaces or with a negative
// SampleGroup has none: it just waits.
func (i *Interceptor) Samples(ctx context.Context, take func(Sample)) error {
	if len(i.fixed.Interfaces) == 0 || i.fixed.SampleGroup < 0 {
		<-ctx.Done()
		return nil
	}
	c, err := bindLog(uint16(i.fixed.SampleGroup))
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		msgs, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more came than was taken: they are samples
			continue
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("intercept: read samples of raw connections: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Type != nfulMsgPacket {
				continue
			}
			if label, s, ok := parseLog(m.Data); ok {
				i.explainSample(label, &s)
				take(s)
			}
		}
	}
}

// bindLog opens a socket that receives a log group, headers only.
func bindLog(group uint16) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("intercept: open the log socket: %w", err)
	}
	mode := binary.BigEndian.AppendUint32(nil, sampleBytes)
	for _, attr := range []netlink.Attribute{
		{Type: nfulCfgCmd, Data: []byte{nfulCmdBind}},
		{Type: nfulCfgMode, Data: append(mode, nfulCopyPacket, 0)},
		{Type: nfulCfgTimeout, Data: binary.BigEndian.AppendUint32(nil, 20)},
	} {
		body, err := netlink.MarshalAttributes([]netlink.Attribute{attr})
		if err == nil {
			_, err = c.Execute(netlink.Message{
				Header: netlink.Header{Type: nfulMsgConfig, Flags: netlink.Request | netlink.Acknowledge},
				Data:   append(binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, group), body...),
			})
		}
		if err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("intercept: bind log group %d: %w", group, explain(err))
		}
	}
	return c, nil
}

// parseLog reads the message of one logged packet.
func parseLog(b []byte) (label string, s Sample, ok bool) {
	if len(b) < nfgenmsgLen {
		return "", s, false
	}
	ad, err := netlink.NewAttributeDecoder(b[nfgenmsgLen:])
	if err != nil {
		return "", s, false
	}
	var found bool
	for ad.Next() {
		switch ad.Type() {
		case nfulPrefix:
			label, found = strings.CutPrefix(ad.String(), samplePrefix)
		case nfulPayload:
			var seg segment
			if seg, ok = parseSegment(ad.Bytes()); ok {
				s.Client, s.Target = seg.from, seg.to
			}
		}
	}
	return label, s, ok && found && ad.Err() == nil
}

// explainSample turns a label into a reason, and a peer where the reason is that peer's state.
func (i *Interceptor) explainSample(label string, s *Sample) {
	s.Reason = label
	i.mu.Lock()
	defer i.mu.Unlock()
	for name, key := range i.table.m.keys {
		if key != label {
			continue
		}
		p := i.peers[name]
		s.Peer, s.Reason = name, p.reason
		if p.alive {
			s.Reason = ReasonFault
		}
	}
}
