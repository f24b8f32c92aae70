package intercept

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/include/uapi/linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily  = 20
	diagRequestLen    = 56                  // struct inet_diag_req_v2
	diagMessageLen    = 72                  // struct inet_diag_msg
	diagStatesAt      = 4                   // in the request
	diagMark          = 15                  // attribute
	statesStillToSend = 1<<4 | 1<<9 | 1<<11 // FIN_WAIT1, LAST_ACK, CLOSING: the FIN, and what is before it, is not acknowledged yet
)

// settleEvery is how often Settle looks.
const settleEvery = 20 * time.Millisecond

// Settle waits until every connection of this process that was finished has delivered its last bytes, or ctx ends. Such connections
// have no descriptor any more, but they still need the rules: it is called before Remove. It sees the sockets that carry the own
// bit, those accepted here and those dialled with that mark.
func (i *Interceptor) Settle(ctx context.Context) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		n := 0
		for _, f := range i.families {
			k, err := unsettled(f, i.fixed.OwnBit)
			if err != nil {
				return err
			}
			n += k
		}
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("intercept: %d connections have not delivered their last bytes: %w", n, ctx.Err())
		case <-tick.C:
		}
	}
}

// unsettled counts this host's TCP sockets that carry a mark bit and wait for their last acknowledgement.
func unsettled(f family, bit uint32) (int, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return 0, fmt.Errorf("intercept: open the socket to list connections: %w", err)
	}
	defer c.Close()
	req := make([]byte, diagRequestLen)
	req[0], req[1] = byte(f.af()), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[diagStatesAt:], statesStillToSend)
	msgs, err := c.Execute(netlink.Message{Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req})
	if err != nil {
		return 0, fmt.Errorf("intercept: list connections: %w", err)
	}
	n := 0
	for _, m := range msgs {
		if len(m.Data) < diagMessageLen {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[diagMessageLen:])
		if err != nil {
			continue
		}
		for ad.Next() {
			if b := ad.Bytes(); ad.Type() == diagMark && len(b) == 4 && binary.NativeEndian.Uint32(b)&bit != 0 {
				n++
			}
		}
	}
	return n, nil
}
