package intercept

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"pgregory.net/rapid"
)

func packetFor(f family) traveller {
	from, to := netip.MustParseAddrPort("10.1.0.10:49877"), netip.MustParseAddrPort("10.2.0.10:47123")
	if f == v6 {
		from, to = netip.MustParseAddrPort("[fd00:1::a]:49877"), netip.MustParseAddrPort("[fd00:2::a]:47123")
	}
	return traveller{
		family: f, hook: *nftables.ChainHookInput, iif: "lan0", oif: "wan0", ifIndex: map[string]uint32{"lan0": 2, "wan0": 3},
		mark: DefaultDivertBit, ctState: expr.CtStateBitNEW, packet: segment{from: from, to: to, flags: flagSYN}.append(nil),
	}
}

func drawExpr(t *rapid.T) expr.Any {
	reg := rapid.Uint32Range(0, 30)
	data := func(name string) []byte { return rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, name) }
	n := rapid.OneOf(rapid.Uint32Range(0, 80), rapid.Uint32())
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0:
		return &expr.Meta{Key: expr.MetaKey(rapid.Uint32Range(0, 40).Draw(t, "key")), Register: reg.Draw(t, "reg"), SourceRegister: rapid.Bool().Draw(t, "set")}
	case 1:
		return &expr.Payload{Base: expr.PayloadBase(rapid.Uint32Range(0, 4).Draw(t, "base")), Offset: n.Draw(t, "offset"), Len: n.Draw(t, "len"), DestRegister: reg.Draw(t, "reg")}
	case 2, 3:
		return &expr.Cmp{Op: expr.CmpOp(rapid.Uint32Range(0, 7).Draw(t, "op")), Register: reg.Draw(t, "reg"), Data: data("data")}
	case 4:
		return &expr.Bitwise{SourceRegister: reg.Draw(t, "from"), DestRegister: reg.Draw(t, "to"), Len: n.Draw(t, "len"), Mask: data("mask"), Xor: data("xor")}
	case 5:
		return &expr.Range{Op: expr.CmpOpEq, Register: reg.Draw(t, "reg"), FromData: data("first"), ToData: data("last")}
	case 6:
		return &expr.Immediate{Register: reg.Draw(t, "reg"), Data: data("data")}
	case 7:
		return &expr.Ct{Key: expr.CtKey(rapid.Uint32Range(0, 25).Draw(t, "key")), Register: reg.Draw(t, "reg")}
	case 8:
		return &expr.Fib{Register: reg.Draw(t, "reg")}
	case 9:
		return &expr.Verdict{Kind: expr.VerdictKind(rapid.Int64Range(-6, 5).Draw(t, "verdict"))}
	case 10:
		return &expr.Match{Name: "tcp", Info: &xt.Tcp{DstPorts: [2]uint16{rapid.Uint16().Draw(t, "low"), rapid.Uint16().Draw(t, "high")}}}
	case 11:
		return &expr.Match{Name: "conntrack", Info: &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{StateMask: rapid.Uint16().Draw(t, "mask")}}}
	default:
		return &expr.Limit{}
	}
}

// Rules of others are anybody's input: whatever is in them, the walk ends with a verdict.
func TestWalkTakesAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chain := &nftables.Chain{Name: "c", Table: &nftables.Table{Name: "t", Family: nftables.TableFamilyINet}}
		r := &ruleset{rules: map[string][]*nftables.Rule{}}
		var rules []*nftables.Rule
		for range rapid.IntRange(0, 6).Draw(t, "rules") {
			var exprs []expr.Any
			for range rapid.IntRange(0, 8).Draw(t, "exprs") {
				exprs = append(exprs, drawExpr(t))
			}
			rules = append(rules, &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
		}
		// Jumps to itself end, too, however many.
		for range 4 {
			rules = append(rules, &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Limit{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: "c"}}})
		}
		r.rules["1t/c"] = rules
		r.steps = maxSteps - 2000
		o := r.walk(chain, packetFor(family(rapid.Bool().Draw(t, "v4"))), 0)
		if o == 0 || o&goesOn != 0 {
			t.Fatalf("outcome %b", o)
		}
	})
}

func TestVerdictOf(t *testing.T) {
	for _, tt := range []struct {
		in   []byte
		kind expr.VerdictKind
		ok   bool
	}{
		{nil, 0, false},
		{[]byte{1, 2}, 0, false},
		{[]byte{8, 0, 1, 0, 0, 0, 0, 1}, expr.VerdictAccept, true},
		{[]byte{8, 0, 1, 0, 0, 0, 0, 0}, expr.VerdictDrop, true},
		{[]byte{8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfd, 6, 0, 2, 0, 'x', 0, 0, 0}, expr.VerdictJump, true},
	} {
		v, ok := verdictOf(tt.in)
		if ok != tt.ok || ok && v.Kind != tt.kind {
			t.Errorf("%v: got %+v, %v", tt.in, v, ok)
		}
	}
}
