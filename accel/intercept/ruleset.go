package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// outcome is a set of what can become of a packet in a chain. More than one bit: it depends on what cannot be told from outside.
type outcome uint8

const (
	accepted outcome = 1 << iota
	dropped
	undecided // the chain's end is reached, or a return
	goesOn    // the next rule is reached; only within walk
)

// traveller is a packet on its way through other programs' chains.
type traveller struct {
	family   family
	hook     nftables.ChainHook
	packet   []byte // IP and TCP headers
	iif, oif string
	ifIndex  map[string]uint32
	mark     uint32
	ctState  uint32 // one of expr.CtStateBit
	anyPort  bool   // the packet stands for those of all ports
}

// ruleset walks the chains of this host that are not ours, to tell what they do to a packet. It knows the expressions that
// firewalls are made of; what it does not know it takes for possible both ways.
type ruleset struct {
	conn   *nftables.Conn
	ours   string // our table, left out
	chains []*nftables.Chain
	rules  map[string][]*nftables.Rule
	sets   map[string]*setContents
	steps  int // rules looked at in this verdict
}

// maxSteps bounds the work of one verdict. Chains cannot form loops, but jumps can multiply; beyond this nothing is decided.
const maxSteps = 200_000

type setContents struct {
	interval, concat bool
	elements         []nftables.SetElement // in the order of their keys
}

// readRuleset lists the chains; rules and sets are read when they are met.
func readRuleset(ours string) (*ruleset, error) {
	c := &nftables.Conn{}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("intercept: list nftables chains: %w", explain(err))
	}
	return &ruleset{conn: c, ours: ours, chains: chains, rules: map[string][]*nftables.Rule{}, sets: map[string]*setContents{}}, nil
}

// verdict is what becomes of a packet in all base chains of its hook, and the chain that drops it if one does.
func (r *ruleset) verdict(p traveller) (outcome, string) {
	all, by := accepted, ""
	r.steps = 0
	for _, ch := range r.chains {
		if !r.concerns(ch, p) {
			continue
		}
		o := r.walk(ch, p, 0)
		if o&undecided != 0 {
			o &^= undecided
			if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
				o |= dropped
			} else {
				o |= accepted
			}
		}
		if o&dropped != 0 {
			by = fmt.Sprintf("chain %s of table %s %s", ch.Name, familyName(ch.Table.Family), ch.Table.Name)
		}
		if o == dropped {
			return dropped, by
		}
		all |= o
	}
	return all, by
}

// concerns: filter chains of the packet's hook and family, but ours.
func (r *ruleset) concerns(ch *nftables.Chain, p traveller) bool {
	if ch.Hooknum == nil || ch.Type != nftables.ChainTypeFilter || *ch.Hooknum != p.hook {
		return false
	}
	switch ch.Table.Family {
	case nftables.TableFamilyINet:
		return ch.Table.Name != r.ours
	case nftables.TableFamilyIPv4:
		return p.family == v4
	case nftables.TableFamilyIPv6:
		return p.family == v6
	default:
		return false
	}
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	default:
		return fmt.Sprint(byte(f))
	}
}

// maxDepth is the kernel's own limit on jumps (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// walk gives what becomes of a packet in a chain: accepted, dropped, or undecided when it reaches the end.
func (r *ruleset) walk(ch *nftables.Chain, p traveller, depth int) outcome {
	rules, err := r.rulesOf(ch)
	if err != nil || depth > maxDepth {
		return accepted | dropped | undecided
	}
	var result outcome
	for _, rule := range rules {
		if r.steps++; r.steps > maxSteps {
			return accepted | dropped | undecided
		}
		m := r.match(rule, p)
		if m.certainty == never {
			continue
		}
		o := m.verdict
		switch {
		case m.target != "":
			o = r.walk(&nftables.Chain{Name: m.target, Table: ch.Table}, p, depth+1)
			if !m.isGoto && o&undecided != 0 { // comes back from a jump
				o = o&^undecided | goesOn
			}
		case o == 0:
			o = goesOn
		}
		if m.certainty == possibly {
			o |= goesOn
		}
		result |= o &^ goesOn
		if o&goesOn == 0 {
			return result
		}
	}
	return result | undecided
}

func (r *ruleset) rulesOf(ch *nftables.Chain) (rules []*nftables.Rule, err error) {
	key := fmt.Sprint(ch.Table.Family, ch.Table.Name, "/", ch.Name)
	if rules, ok := r.rules[key]; ok {
		return rules, nil
	}
	defer func() {
		// The library was made for rules that its users wrote; these are anybody's. What it cannot read is undecided.
		if x := recover(); x != nil {
			rules, err = nil, fmt.Errorf("intercept: chain %s cannot be read: %v", ch.Name, x)
		}
	}()
	if rules, err = r.conn.GetRules(ch.Table, ch); err != nil {
		return nil, err
	}
	r.rules[key] = rules
	return rules, nil
}

func (r *ruleset) setOf(t *nftables.Table, name string) (s *setContents, err error) {
	key := fmt.Sprint(t.Family, t.Name, "/", name)
	if s, ok := r.sets[key]; ok {
		return s, nil
	}
	defer func() {
		if x := recover(); x != nil { // as in rulesOf
			s, err = nil, fmt.Errorf("intercept: set %s cannot be read: %v", name, x)
		}
	}()
	set, err := r.conn.GetSetByName(t, name)
	if err != nil {
		return nil, err
	}
	elements, err := r.conn.GetSetElements(set)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		if a.IntervalEnd == b.IntervalEnd {
			return 0
		}
		if a.IntervalEnd { // where one interval ends and the next begins, the next counts
			return -1
		}
		return 1
	})
	s = &setContents{interval: set.Interval, concat: set.Concatenation, elements: elements}
	r.sets[key] = s
	return s, nil
}

// find looks a key up; known is false when it cannot be told.
func (s *setContents) find(key []byte) (e *nftables.SetElement, known bool) {
	if s.interval && s.concat {
		return nil, false
	}
	if !s.interval {
		for i := range s.elements {
			if bytes.Equal(s.elements[i].Key, key) {
				return &s.elements[i], true
			}
		}
		return nil, true
	}
	for i := range slices.Backward(s.elements) {
		if len(s.elements[i].Key) != len(key) {
			return nil, false
		}
		if bytes.Compare(s.elements[i].Key, key) <= 0 {
			if s.elements[i].IntervalEnd {
				return nil, true
			}
			return &s.elements[i], true
		}
	}
	return nil, true
}

type certainty uint8

const (
	never certainty = iota
	possibly
	always
)

// matched is what a rule says about a packet.
type matched struct {
	certainty certainty
	verdict   outcome // 0: none
	target    string  // chain to jump to
	isGoto    bool
}

// registers are nftables' 64 bytes of registers; bytes that were not written, or by something unknown, are not known.
type registers struct {
	b     [64]byte
	known [64]bool
}

// offset gives where a register begins: 1 to 4 are of 16 bytes, 8 to 23 of 4.
func offset(reg uint32) (int, bool) {
	switch {
	case reg >= unix.NFT_REG_1 && reg <= unix.NFT_REG_4:
		return int(reg-unix.NFT_REG_1) * 16, true
	case reg >= unix.NFT_REG32_00 && reg <= unix.NFT_REG32_15:
		return int(reg-unix.NFT_REG32_00) * 4, true
	}
	return 0, false
}

func (r *registers) set(reg uint32, v []byte) {
	if at, ok := offset(reg); ok && at+len(v) <= len(r.b) {
		copy(r.b[at:], v)
		for i := range v {
			r.known[at+i] = true
		}
	}
}

// forget: a register holds what is not known.
func (r *registers) forget(reg uint32) {
	if at, ok := offset(reg); ok {
		clear(r.known[at:min(at+16, len(r.known))])
	}
}

func (r *registers) get(reg uint32, n int) ([]byte, bool) {
	at, ok := offset(reg)
	if !ok || n <= 0 || at+n > len(r.b) {
		return nil, false
	}
	for i := at; i < at+n; i++ {
		if !r.known[i] {
			return nil, false
		}
	}
	return r.b[at : at+n], true
}

// match evaluates a rule. Expressions the library does not know are missing in it; since they leave their result in a register
// that is compared next, a register is forgotten once it was compared.
func (r *ruleset) match(rule *nftables.Rule, p traveller) matched {
	var regs registers
	m := matched{certainty: always}
	test := func(yes, known bool) bool {
		if known && !yes {
			m = matched{}
			return false
		}
		if !known {
			m.certainty = possibly
		}
		return true
	}
	for _, e := range rule.Exprs {
		ok := true
		switch e := e.(type) {
		case *expr.Meta:
			if e.SourceRegister {
				break // sets something
			}
			regs.forget(e.Register)
			if v := p.meta(e.Key); v != nil {
				regs.set(e.Register, v)
			}
		case *expr.Ct:
			if e.SourceRegister {
				break
			}
			regs.forget(e.Register)
			if e.Key == expr.CtKeySTATE {
				regs.set(e.Register, binaryutil.NativeEndian.PutUint32(p.ctState))
			}
		case *expr.Payload:
			if e.OperationType != expr.PayloadLoad {
				break
			}
			regs.forget(e.DestRegister)
			if v := p.load(e.Base, e.Offset, e.Len); v != nil {
				regs.set(e.DestRegister, v)
			}
		case *expr.Immediate:
			regs.forget(e.Register)
			regs.set(e.Register, e.Data)
		case *expr.Bitwise:
			v, known := regs.get(e.SourceRegister, int(e.Len))
			v = bytes.Clone(v)
			regs.forget(e.DestRegister)
			if known && len(e.Mask) == len(v) && len(e.Xor) == len(v) {
				for i := range v {
					v[i] = v[i]&e.Mask[i] ^ e.Xor[i]
				}
				regs.set(e.DestRegister, v)
			}
		case *expr.Cmp:
			v, known := regs.get(e.Register, len(e.Data))
			ok = test(known && compare(e.Op, v, e.Data), known)
			if e.Op == expr.CmpOpEq || e.Op == expr.CmpOpNeq {
				regs.forget(e.Register)
			}
		case *expr.Range:
			v, known := regs.get(e.Register, len(e.FromData))
			known = known && len(e.ToData) == len(e.FromData)
			inside := known && bytes.Compare(v, e.FromData) >= 0 && bytes.Compare(v, e.ToData) <= 0
			ok = test(inside == (e.Op == expr.CmpOpEq), known)
			regs.forget(e.Register)
		case *expr.Lookup:
			ok = r.lookup(rule.Table, e, &regs, &m, test)
		case *expr.Match:
			ok = test(p.xtMatch(e))
		case *expr.Verdict:
			m.setVerdict(e)
		case *expr.Reject:
			m.verdict = dropped
		case *expr.Target:
			if e.Name == "REJECT" {
				m.verdict = dropped
			}
		case *expr.Queue:
			m.verdict = accepted | dropped
		case *expr.Fib:
			regs.forget(e.Register)
		case *expr.Limit, *expr.Quota, *expr.Connlimit:
			ok = test(false, false)
		case *expr.Counter, *expr.Log, *expr.Objref, *expr.Notrack, *expr.NAT, *expr.Masq, *expr.Redir, *expr.FlowOffload, *expr.SecMark,
			*expr.CtHelper, *expr.CtTimeout, *expr.CtExpect:
			// no condition
		default:
			ok = test(false, false)
		}
		if !ok {
			return matched{}
		}
	}
	return m
}

// lookup evaluates a set or a verdict map.
func (r *ruleset) lookup(t *nftables.Table, e *expr.Lookup, regs *registers, m *matched, test func(yes, known bool) bool) bool {
	s, err := r.setOf(t, e.SetName)
	if err != nil || len(s.elements) == 0 {
		if err == nil {
			return test(e.Invert, true)
		}
		regs.forget(e.DestRegister)
		return test(false, false)
	}
	key, known := regs.get(e.SourceRegister, len(s.elements[0].Key))
	var found *nftables.SetElement
	if known {
		found, known = s.find(key)
	}
	regs.forget(e.SourceRegister)
	if !e.IsDestRegSet {
		return test((found != nil) != e.Invert, known)
	}
	if !test(found != nil, known) {
		return false
	}
	switch {
	case found == nil: // not known
		m.verdict = accepted | dropped
	case e.DestRegister == unix.NFT_REG_VERDICT:
		v, ok := verdictOf(found.Val)
		if !ok {
			m.verdict = accepted | dropped
			break
		}
		m.setVerdict(v)
	default:
		regs.forget(e.DestRegister)
		regs.set(e.DestRegister, found.Val)
	}
	return true
}

// verdictOf reads the value of a verdict map's element, which the library leaves as it comes: nested attributes of code and chain.
func verdictOf(b []byte) (*expr.Verdict, bool) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, false
	}
	ad.ByteOrder = binary.BigEndian
	var v expr.Verdict
	found := false
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind, found = expr.VerdictKind(int32(ad.Uint32())), true
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = ad.String()
		}
	}
	return &v, found && ad.Err() == nil
}

func (m *matched) setVerdict(v *expr.Verdict) {
	switch v.Kind {
	case expr.VerdictAccept:
		m.verdict = accepted
	case expr.VerdictDrop:
		m.verdict = dropped
	case expr.VerdictReturn:
		m.verdict = undecided
	case expr.VerdictJump, expr.VerdictGoto:
		m.target, m.isGoto = v.Chain, v.Kind == expr.VerdictGoto
	case expr.VerdictContinue, expr.VerdictBreak:
	default:
		m.verdict = accepted | dropped
	}
}

func compare(op expr.CmpOp, v, data []byte) bool {
	c := bytes.Compare(v, data)
	switch op {
	case expr.CmpOpEq:
		return c == 0
	case expr.CmpOpNeq:
		return c != 0
	case expr.CmpOpLt:
		return c < 0
	case expr.CmpOpLte:
		return c <= 0
	case expr.CmpOpGt:
		return c > 0
	case expr.CmpOpGte:
		return c >= 0
	}
	return false
}

// meta gives what is known about the packet beside its bytes.
func (p traveller) meta(key expr.MetaKey) []byte {
	name := func(s string) []byte { return interfaceElement(s, 0).Key }
	switch key {
	case expr.MetaKeyNFPROTO:
		if p.family == v4 {
			return []byte{unix.NFPROTO_IPV4}
		}
		return []byte{unix.NFPROTO_IPV6}
	case expr.MetaKeyPROTOCOL:
		if p.family == v4 {
			return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
		}
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
	case expr.MetaKeyL4PROTO:
		return []byte{unix.IPPROTO_TCP}
	case expr.MetaKeyMARK:
		return binaryutil.NativeEndian.PutUint32(p.mark)
	case expr.MetaKeyIIFNAME:
		return name(p.iif)
	case expr.MetaKeyOIFNAME:
		if p.oif != "" {
			return name(p.oif)
		}
	case expr.MetaKeyIIF:
		if n, ok := p.ifIndex[p.iif]; ok {
			return binaryutil.NativeEndian.PutUint32(n)
		}
	case expr.MetaKeyOIF:
		if n, ok := p.ifIndex[p.oif]; ok {
			return binaryutil.NativeEndian.PutUint32(n)
		}
	default:
	}
	return nil
}

func (p traveller) load(base expr.PayloadBase, offset, n uint32) []byte {
	at := 0
	switch base {
	case expr.PayloadBaseNetworkHeader:
	case expr.PayloadBaseTransportHeader:
		at = len(p.packet) - tcpHeaderLen
	default:
		return nil
	}
	from, to := at+int(offset), at+int(offset)+int(n)
	if p.anyPort && base == expr.PayloadBaseTransportHeader && offset < 4 {
		return nil
	}
	if offset > 128 || n > 64 || to > len(p.packet) {
		return nil
	}
	return p.packet[from:to]
}

// xtMatch evaluates the matches that iptables' nft variant still writes in the old form.
func (p traveller) xtMatch(e *expr.Match) (yes, known bool) {
	state := func(flags, inverted, mask uint16) (bool, bool) {
		if xt.ConntrackFlags(flags)&^(xt.ConntrackState|xt.ConntrackStateAlias) != 0 {
			return false, false
		}
		// Bits of enum ip_conntrack_info, moved by one: INVALID 1, ESTABLISHED 2, RELATED 4, NEW 8.
		in := uint32(mask)&p.ctState != 0
		return in != (xt.ConntrackFlags(inverted)&xt.ConntrackState != 0), true
	}
	switch info := e.Info.(type) {
	case *xt.ConntrackMtinfo1:
		return state(info.MatchFlags, info.InvertFlags, uint16(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return state(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.ConntrackMtinfo3:
		return state(info.MatchFlags, info.InvertFlags, info.StateMask)
	case *xt.Comment:
		return true, true
	case *xt.Udp:
		return false, true
	case *xt.Tcp:
		if info.Option != 0 || info.FlagsMask != 0 {
			return false, false
		}
		s, ok := parseSegment(p.packet)
		ok = ok && !p.anyPort
		in := func(port uint16, r [2]uint16, invert bool) bool { return (r[0] <= port && port <= r[1]) != invert }
		return ok && in(s.from.Port(), info.SrcPorts, info.InvFlags&xt.TcpInvSrcPorts != 0) &&
			in(s.to.Port(), info.DstPorts, info.InvFlags&xt.TcpInvDestPorts != 0), ok
	}
	return false, false
}
