package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is the nftables table in the kernel. Every operation is one transaction on a socket of its own, in the network namespace of
// the thread that calls. It is not safe for concurrent use.
type table struct {
	m          *model
	id         *nftables.Table
	sets       map[string]*nftables.Set // by name, as the library knows them
	kernel     *kernel
	generation uint32 // of the whole ruleset after our last transaction; a higher one is somebody else's doing
}

func newTable(m *model, k *kernel) *table {
	return &table{m: m, kernel: k, id: &nftables.Table{Family: nftables.TableFamilyINet, Name: m.cfg.Table}}
}

// contents is what changes while the process runs and must be there again after the table was replaced.
type contents struct {
	alive    map[string][]netip.Prefix // by peer
	gateways []netip.Addr
	probe    string            // interface of a probe that is under way
	counters map[string]uint64 // packets so far, so that a counter never runs backwards
}

// install puts the table in, in place of one of the same name, in one transaction: no packet meets half a table, and connections
// that run never miss the socket rule.
func (t *table) install(now contents) error {
	err := t.kernel.transact(func(c *nftables.Conn) error { return t.build(c, now) })
	if err != nil {
		return fmt.Errorf("intercept: install the table: %w", explain(err))
	}
	t.noteGeneration()
	return nil
}

// build puts the whole table into a transaction.
func (t *table) build(c *nftables.Conn, now contents) error {
	// Deleting needs something to delete: the empty table of the first message, when there was none.
	c.AddTable(t.id)
	c.DelTable(t.id)
	c.AddTable(t.id)
	for _, name := range t.m.counters {
		c.AddObj(&nftables.NamedObj{Table: t.id, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{Packets: now.counters[name]}})
	}
	ids := map[string]uint32{}
	sets := map[string]*nftables.Set{}
	for _, s := range t.m.sets {
		n := s.nft(t.id)
		if err := c.AddSet(n, s.elements()); err != nil {
			return fmt.Errorf("intercept: set %s: %w", s.name, err)
		}
		ids[s.name], sets[s.name] = n.ID, n
	}
	t.sets = sets
	chains := map[string]*nftables.Chain{}
	for _, ch := range t.m.chains {
		n := &nftables.Chain{Name: ch.name, Table: t.id}
		if ch.base {
			policy := nftables.ChainPolicyAccept
			n.Type, n.Hooknum, n.Priority, n.Policy = nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, &policy
		}
		chains[ch.name] = c.AddChain(n)
	}
	for _, ch := range t.m.chains {
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t.id, Chain: chains[ch.name], Exprs: r.exprs(ids)})
		}
	}
	return t.fill(c, now)
}

// noteGeneration remembers where our last transaction left the ruleset. When it cannot be read the next look finds a difference, and
// nothing worse.
func (t *table) noteGeneration() { t.generation, _ = t.current() }

// fill adds to the transaction what makes the alive and gateways sets hold what they should.
func (t *table) fill(c *nftables.Conn, now contents) error {
	for _, f := range []family{v4, v6} {
		if g := t.sets[gatewaysSet+f.digit()]; g != nil {
			c.FlushSet(g)
			if e := addressElements(addrsOf(bool(f), now.gateways)); len(e) > 0 {
				if err := c.SetAddElements(g, e); err != nil {
					return err
				}
			}
		}
	}
	for peer, prefixes := range now.alive {
		if err := t.fillAlive(c, peer, prefixes); err != nil {
			return err
		}
	}
	return nil
}

// fillAlive empties a peer's alive sets and puts prefixes in, in the same transaction: so elements start their time anew, on every
// kernel, whether they had run out or not.
func (t *table) fillAlive(c *nftables.Conn, peer string, prefixes []netip.Prefix) error {
	for _, f := range []family{v4, v6} {
		s := t.sets[aliveSet(f, t.m.keys[peer])]
		if s == nil {
			continue
		}
		c.FlushSet(s)
		if e := addrElements(rangesOf(bool(f), prefixes), t.m.cfg.AliveTimeout); len(e) > 0 {
			if err := c.SetAddElements(s, e); err != nil {
				return fmt.Errorf("intercept: alive set of %s: %w", peer, err)
			}
		}
	}
	return nil
}

// refresh renews the alive sets of some peers, and empties those whose prefixes are nil. errTableGone: somebody removed the table.
func (t *table) refresh(alive map[string][]netip.Prefix) error {
	if len(alive) == 0 {
		return nil
	}
	return t.change("refresh the alive sets", func(c *nftables.Conn) error {
		for peer, prefixes := range alive {
			if err := t.fillAlive(c, peer, prefixes); err != nil {
				return err
			}
		}
		return nil
	})
}

// setGateways replaces the peers' own addresses.
func (t *table) setGateways(addrs []netip.Addr) error {
	return t.change("set the peers' own addresses", func(c *nftables.Conn) error { return t.fill(c, contents{gateways: addrs}) })
}

// refuse lets connections to a destination pass raw for a while; with d <= 0 no longer.
func (t *table) refuse(target netip.AddrPort, d time.Duration) error {
	s := t.sets[refusedSet+family(target.Addr().Is4()).digit()]
	if s == nil {
		return nil
	}
	// Adding what is there does not renew its time on all kernels, deleting what is not there is an error: so add, delete and add.
	e := []nftables.SetElement{targetElement(target, max(d, time.Second))}
	return t.change("change the set of refusing destinations", func(c *nftables.Conn) error {
		if err := c.SetAddElements(s, e); err != nil {
			return err
		}
		if err := c.SetDeleteElements(s, []nftables.SetElement{{Key: e[0].Key}}); err != nil {
			return err
		}
		if d > 0 {
			return c.SetAddElements(s, e)
		}
		return nil
	})
}

// setProbe names the interface whose connections are diverted as a probe; "" none.
func (t *table) setProbe(iface string) error {
	s := t.sets[probeSet]
	return t.change("let the probe in", func(c *nftables.Conn) error {
		c.FlushSet(s)
		if iface != "" {
			return c.SetAddElements(s, []nftables.SetElement{interfaceElement(iface, 0)})
		}
		return nil
	})
}

// errTableGone says that somebody removed the table or a part of it.
var errTableGone = errors.New("intercept: the nftables table is gone")

// change sends a transaction that needs the table to stand.
func (t *table) change(what string, build func(c *nftables.Conn) error) error {
	switch err := t.kernel.transact(build); {
	case err == nil:
		t.noteGeneration()
		return nil
	case errors.Is(err, unix.ENOENT):
		return errTableGone
	default:
		return fmt.Errorf("intercept: %s: %w", what, explain(err))
	}
}

// remove takes the table out; that it is gone already is fine.
func (t *table) remove() error {
	err := t.kernel.transact(func(c *nftables.Conn) error {
		c.AddTable(t.id)
		c.DelTable(t.id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("intercept: remove the table: %w", explain(err))
	}
	return nil
}

// tableState is what stands under our table's name.
type tableState uint8

const (
	tableAbsent tableState = iota
	tableOurs
	tableForeign
)

// state looks whose table it is: ours carries the owner set with its comment, whichever version made it.
func (t *table) state() (tableState, error) {
	var tables []*nftables.Table
	err := t.kernel.read(func(c *nftables.Conn) (err error) {
		tables, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("intercept: list nftables tables: %w", explain(err))
	}
	found := false
	for _, x := range tables {
		found = found || x.Name == t.id.Name && x.Family == nftables.TableFamilyINet
	}
	if !found {
		return tableAbsent, nil
	}
	var s *nftables.Set
	err = t.kernel.read(func(c *nftables.Conn) (err error) {
		s, err = c.GetSetByName(t.id, ownerSet)
		return err
	})
	switch {
	case err == nil && s.Comment == ownerComment:
		return tableOurs, nil
	case err == nil || errors.Is(err, unix.ENOENT):
		return tableForeign, nil
	default:
		return 0, fmt.Errorf("intercept: look at the table %s: %w", t.id.Name, explain(err))
	}
}

// complete says whether every chain, rule and set of the model is there.
func (t *table) complete() (bool, error) {
	var sets []*nftables.Set
	err := t.kernel.read(func(c *nftables.Conn) (err error) {
		sets, err = c.GetSets(t.id)
		return err
	})
	if err != nil {
		return false, gone(err)
	}
	have := map[string]int{}
	for _, s := range sets {
		have["set "+s.Name]++
	}
	for _, s := range t.m.sets {
		if have["set "+s.name] == 0 {
			return false, nil
		}
	}
	for _, ch := range t.m.chains {
		var rules []*nftables.Rule
		err := t.kernel.read(func(c *nftables.Conn) (err error) {
			rules, err = c.GetRules(t.id, &nftables.Chain{Name: ch.name, Table: t.id})
			return err
		})
		if err != nil {
			return false, gone(err)
		}
		if len(rules) != len(ch.rules) {
			return false, nil
		}
	}
	return true, nil
}

// gone is nil for an error that only says that something is not there.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("intercept: look at the table: %w", explain(err))
}

// counters reads the named counters, in packets.
func (t *table) counters() (map[string]uint64, error) {
	var objs []nftables.Obj
	err := t.kernel.read(func(c *nftables.Conn) (err error) {
		objs, err = c.GetNamedObjects(t.id)
		return err
	})
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, errTableGone
		}
		return nil, fmt.Errorf("intercept: read counters: %w", explain(err))
	}
	out := make(map[string]uint64, len(objs))
	for _, o := range objs {
		if n, ok := o.(*nftables.NamedObj); ok {
			if counter, ok := n.Obj.(*expr.Counter); ok {
				out[n.Name] = counter.Packets
			}
		}
	}
	return out, nil
}

// current is the number of the ruleset, which every transaction of anybody raises.
func (t *table) current() (uint32, error) {
	var g *nftables.Gen
	err := t.kernel.read(func(c *nftables.Conn) (err error) {
		g, err = c.GetGen()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("intercept: read the ruleset's generation: %w", explain(err))
	}
	return g.ID, nil
}

// explain adds what to do to errors whose text alone does not say it.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (needs CAP_NET_ADMIN)", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w (the kernel lacks nftables: CONFIG_NF_TABLES_INET)", err)
	}
	return err
}
