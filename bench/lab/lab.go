package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/link"
)

// Config says what lab to build. The zero value is a lab with a perfect link.
type Config struct {
	// Name begins the names of its namespaces; "" makes one up that carries the number of this process.
	Name string
	// Link holds the parameters of the link as words that link.Parse reads, such as "both delay=50ms rate=20mbit loss=0.1%".
	// Direction a2b is the one from client to server.
	Link string
	// MTU of the WAN devices; 0 is 1500.
	MTU int
	// Seed of the link's loss, jitter and reordering; 0 takes a random one.
	Seed uint64
	// MemoryBytes bounds the packets under way on the link, per direction; 0 is 256 MiB.
	MemoryBytes int64
	// NoOffload makes the link carry wire packets only, no super-packets.
	NoOffload bool
	// Clients and Servers are the numbers of addresses of those two nodes, 1 to 200; 0 is 1.
	Clients, Servers int
	// Congestion is the TCP congestion control of all nodes, TCPBufferBytes the largest TCP buffer; "" and 0 leave the kernel's.
	Congestion     string
	TCPBufferBytes int
	// Detached lets the lab live on when this process ends, until somebody removes it.
	Detached bool
	// Ends, when not nil, asks for a link between two existing namespaces and nothing else.
	Ends *[2]link.End
}

func (c Config) withDefaults() (Config, error) {
	for _, n := range []*int{&c.Clients, &c.Servers} {
		if *n == 0 {
			*n = 1
		}
		if *n < 1 || *n > maxHosts {
			return c, fmt.Errorf("lab: %d clients or servers are not within 1 to %d", *n, maxHosts)
		}
	}
	if c.Name != "" {
		return c, checkName(c.Name)
	}
	return c, nil
}

// Lab is four namespaces and a link, ready for programs. Its methods may be called from any goroutine.
type Lab struct {
	// Name begins the names of the namespaces.
	Name string

	config   Config
	emulator *emulator // nil when another process started it
}

// startTimeout bounds how long the emulator may take to make its devices; it takes milliseconds.
const startTimeout = 15 * time.Second

// Up builds a lab. ctx bounds the building only. On an error nothing is left behind.
func Up(ctx context.Context, config Config) (_ *Lab, err error) {
	config, err = config.withDefaults()
	if err != nil {
		return nil, err
	}
	pair, err := link.Parse(link.Pair{}, strings.Fields(config.Link)...)
	if err != nil {
		return nil, err
	}
	if err := Check(); err != nil {
		return nil, err
	}
	l := &Lab{config: config}
	if err := l.claim(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("lab %s: %w", l.Name, errors.Join(err, l.Down()))
		}
	}()
	handles := make(map[Node]*handle)
	defer func() {
		for _, h := range handles {
			h.close()
		}
	}()
	ends := [2]link.End{{Namespace: l.Namespace(GatewayA)}, {Namespace: l.Namespace(GatewayB)}}
	if config.Ends != nil {
		ends = *config.Ends
	} else {
		for _, n := range Nodes()[1:] { // the first one was claimed
			if err := makeNamespace(l.Namespace(n)); err != nil {
				return nil, err
			}
		}
		for _, n := range Nodes() {
			if handles[n], err = openHandle(l.Name, n); err != nil {
				return nil, err
			}
			if err := l.prepareNode(n); err != nil {
				return nil, err
			}
		}
		if err := l.buildLANs(handles); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	l.emulator, err = startEmulator(ctx, childConfig{
		Name:     l.Name,
		Socket:   socketPath(l.Name),
		Detached: config.Detached,
		Link: link.Config{A: ends[0], B: ends[1], Link: pair, MTU: config.MTU, Seed: config.Seed,
			MemoryBytes: config.MemoryBytes, NoOffload: config.NoOffload},
	})
	if err != nil {
		return nil, err
	}
	if config.Ends != nil {
		return l, nil
	}
	return l, l.configure(handles)
}

// claim takes the lab's name: by making its first namespace, or, for a bare link, by finding its socket unused.
func (l *Lab) claim() error {
	if err := os.MkdirAll(directory(), 0o700); err != nil {
		return fmt.Errorf("directory of control sockets: %w", err)
	}
	const tries = 1000
	for i := range tries {
		l.Name = l.config.Name
		if l.Name == "" {
			l.Name = ownName(i)
		}
		var err error
		if l.config.Ends != nil {
			if _, err = os.Lstat(socketPath(l.Name)); err == nil {
				err = fs.ErrExist
			} else if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		} else {
			err = makeNamespace(l.Namespace(Nodes()[0]))
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrExist):
			return err
		case l.config.Name != "":
			return fmt.Errorf("%w: %s", ErrExists, l.Name)
		}
	}
	return fmt.Errorf("%w: %s and %d more", ErrExists, ownName(0), tries-1)
}

func (l *Lab) prepareNode(n Node) error {
	values := commonSysctls()
	if n == GatewayA || n == GatewayB {
		values["net.ipv4.ip_forward"] = "1"
		values["net.ipv6.conf.all.forwarding"] = "1"
	}
	if err := l.setSysctls(n, values); err != nil {
		return err
	}
	return l.SetTCP(n, l.config.Congestion, l.config.TCPBufferBytes)
}

// Open returns a lab that another process has built.
func Open(name string) (*Lab, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if _, err := os.Stat(socketPath(name)); err != nil {
		return nil, fmt.Errorf("no lab %s: %w", name, err)
	}
	return &Lab{Name: name}, nil
}

// List returns the names of all labs that there are traces of.
func List() []string { return leftovers() }

// Down removes the lab: it kills every process in its namespaces, stops the link and removes the namespaces. It may be called again.
func (l *Lab) Down() error {
	if l.emulator != nil {
		l.emulator.stop()
	}
	return Remove(l.Name)
}

// Remove removes the lab of that name, whoever built it and in whatever state it is; it is no error when there is none.
func Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	stopByPeer(socketPath(name))
	var faults []error
	for _, n := range Nodes() {
		faults = append(faults, removeNamespace(namespace(name, n)))
	}
	for _, path := range []string{socketPath(name), logPath(name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Sweep removes the labs whose names Up made up for processes that are no more, and returns those names.
func Sweep() (removed []string, err error) {
	var faults []error
	for _, name := range leftovers() {
		pid, ok := ownerOf(name)
		if !ok || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		if err := Remove(name); err != nil {
			faults = append(faults, err)
			continue
		}
		removed = append(removed, name)
	}
	return removed, errors.Join(faults...)
}

// SetLink changes parameters of the link by words that link.Parse reads, such as SetLink(ctx, "both", "loss=1%") or SetLink(ctx, "down").
func (l *Lab) SetLink(ctx context.Context, words ...string) error {
	var split []string
	for _, w := range words {
		split = append(split, strings.Fields(w)...)
	}
	return l.Link().Set(ctx, split...)
}

// LinkStats returns what the link did since the last reset.
func (l *Lab) LinkStats(ctx context.Context) (link.Stats, error) { return l.Link().Stats(ctx) }

// ResetLink forgets the link's counts and starts its random sequences anew.
func (l *Lab) ResetLink(ctx context.Context) error { return l.Link().Reset(ctx) }

// Link returns the control of the lab's link.
func (l *Lab) Link() link.Client { return link.Client{Socket: socketPath(l.Name)} }
