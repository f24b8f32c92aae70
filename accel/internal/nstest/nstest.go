// Package nstest builds small networks out of network namespaces for tests: anonymous namespaces that vanish with the test,
// joined by veth pairs, with addresses, routes and sysctls. It needs root; RequireRoot says what happens without.
package nstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// RequireRoot skips a test that cannot make namespaces here, and fails it when WANPAIR_REQUIRE_ROOT=1.
func RequireRoot(t testing.TB) {
	t.Helper()
	err := tryNamespace()
	if err == nil {
		return
	}
	if os.Getenv("WANPAIR_REQUIRE_ROOT") == "1" {
		t.Fatalf("WANPAIR_REQUIRE_ROOT=1, but no network namespace can be made: %v", err)
	}
	t.Skipf("needs root, to make network namespaces: %v", err)
}

func tryNamespace() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its namespace with it
		done <- unix.Unshare(unix.CLONE_NEWNET)
	}()
	return <-done
}

// NS is a network namespace.
type NS struct {
	t      testing.TB
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
}

// New makes a namespace with its loopback up; it is gone when the test ends and its processes have ended.
func New(t testing.TB, name string) *NS {
	t.Helper()
	RequireRoot(t)
	n := &NS{t: t, name: name}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.handle, err = netns.Get()
		}
		if err == nil {
			n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make namespace %s: %v", name, err)
	}
	t.Cleanup(func() {
		n.nl.Close()
		n.handle.Close()
	})
	n.must(n.nl.LinkSetUp(n.link("lo")))
	// Without this every IPv6 address, link-local ones included, is unusable for its first second or two.
	n.Sysctl("ipv6/conf/all/accept_dad", "0")
	n.Sysctl("ipv6/conf/default/accept_dad", "0")
	return n
}

func (n *NS) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("namespace %s: %v", n.name, err)
	}
}

func (n *NS) link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.nl.LinkByName(name)
	n.must(err)
	return l
}

// Do runs f on a thread inside the namespace and waits for it. Sockets that f opens itself belong to the namespace, wherever
// they are used later; goroutines that f starts do not run inside. f must not call t.Fatal.
func (n *NS) Do(f func()) {
	n.t.Helper()
	if err := n.Run(func() error { f(); return nil }); err != nil {
		n.t.Error(err)
	}
}

// Run is Do for a function that can fail, without a report to the test: for goroutines of the test.
func (n *NS) Run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the function left its goroutine")
		defer func() { done <- err }()
		runtime.LockOSThread() // never unlocked: a thread in the wrong namespace must not be used for anything else
		if serr := netns.Set(n.handle); serr != nil {
			err = fmt.Errorf("enter namespace %s: %w", n.name, serr)
			return
		}
		err = f()
	}()
	return <-done
}

// Command is a program inside the namespace.
func (n *NS) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(n.t.Context(), "nsenter", append([]string{"--net=/proc/self/fd/3", name}, args...)...)
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(n.dup()), "netns")}
	return cmd
}

func (n *NS) dup() int {
	fd, err := unix.FcntlInt(uintptr(n.handle), unix.F_DUPFD_CLOEXEC, 0)
	n.must(err)
	return fd
}

// Output runs a program inside the namespace and gives what it prints; a failure ends the test.
func (n *NS) Output(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Command(name, args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("namespace %s: %s %s: %v\n%s", n.name, name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Input runs a program inside the namespace with text on its standard input.
func (n *NS) Input(text, name string, args ...string) (string, error) {
	cmd := n.Command(name, args...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Sysctl writes a value below /proc/sys/net, such as "ipv4/ip_forward".
func (n *NS) Sysctl(key, value string) {
	n.t.Helper()
	n.Do(func() {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			n.t.Errorf("namespace %s: %v", n.name, err)
		}
	})
}

// Forward makes the namespace a router for IPv4 and IPv6.
func (n *NS) Forward() {
	n.t.Helper()
	n.Sysctl("ipv4/ip_forward", "1")
	n.Sysctl("ipv6/conf/all/forwarding", "1")
}

// Route adds routes through a gateway address.
func (n *NS) Route(via string, dsts ...string) {
	n.t.Helper()
	for _, dst := range dsts {
		n.must(n.nl.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Gw: net.IP(netip.MustParseAddr(via).AsSlice())}))
	}
}

// DelLink removes an interface (and the other end of its pair).
func (n *NS) DelLink(name string) {
	n.t.Helper()
	n.must(n.nl.LinkDel(n.link(name)))
}

// Address adds addresses, such as "10.1.0.1/24", to an interface.
func (n *NS) Address(link string, addrs ...string) {
	n.t.Helper()
	l := n.link(link)
	for _, a := range addrs {
		p := netip.MustParsePrefix(a)
		flags := 0
		if p.Addr().Is6() {
			flags = unix.IFA_F_NODAD // usable at once
		}
		n.must(n.nl.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: ipNet(p).Mask}, Flags: flags}))
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// End is one side of a pair of interfaces.
type End struct {
	NS    *NS
	Name  string
	Addrs []string
}

// Join connects two namespaces with a veth pair.
func Join(t testing.TB, a, b End) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(int(b.NS.handle))}
	a.NS.must(a.NS.nl.LinkAdd(veth))
	for _, e := range []End{a, b} {
		e.NS.must(e.NS.nl.LinkSetUp(e.NS.link(e.Name)))
	}
	for _, e := range []End{a, b} {
		e.NS.waitUp(e.Name)
		e.NS.Address(e.Name, e.Addrs...)
	}
}

// waitUp waits until the kernel has noticed the carrier; before, IPv6 does not use the interface.
func (n *NS) waitUp(name string) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if n.link(name).Attrs().OperState == netlink.OperUp {
			return
		}
	}
	n.t.Fatalf("namespace %s: interface %s does not come up", n.name, name)
}
