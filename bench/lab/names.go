package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"wanpair/bench/link"
)

// Node names one namespace of a lab.
type Node string

// The nodes of a lab.
const (
	Client   Node = "cli"
	GatewayA Node = "gwA"
	GatewayB Node = "gwB"
	Server   Node = "srv"
)

// Nodes lists them along the way of a packet from client to server.
func Nodes() []Node { return []Node{Client, GatewayA, GatewayB, Server} }

// Devices of the nodes.
const (
	HostDevice = "eth0" // of Client and Server
	LANDevice  = "lan0" // of the gateways
	WANDevice  = link.DefaultDevice
)

// Addresses of the lab. The further addresses of Client and Server follow the first ones: see ClientAddr and ServerAddr.
const (
	ClientIP4      = "10.1.0.2"
	GatewayALANIP4 = "10.1.0.1"
	GatewayAWANIP4 = "10.9.0.1"
	GatewayBWANIP4 = "10.9.0.2"
	GatewayBLANIP4 = "10.2.0.1"
	ServerIP4      = "10.2.0.2"

	ClientIP6      = "fd00:1::2"
	GatewayALANIP6 = "fd00:1::1"
	GatewayAWANIP6 = "fd00:9::1"
	GatewayBWANIP6 = "fd00:9::2"
	GatewayBLANIP6 = "fd00:2::1"
	ServerIP6      = "fd00:2::2"

	SubnetA4 = "10.1.0.0/24"
	SubnetA6 = "fd00:1::/64"
	SubnetB4 = "10.2.0.0/24"
	SubnetB6 = "fd00:2::/64"
)

// maxHosts is how many addresses a node of a LAN may have.
const maxHosts = 200

// ClientAddr returns the i-th IPv4 address of the client, from 0: 10.1.0.2, 10.1.0.3 and so on.
func ClientAddr(i int) netip.Addr { return nth(ClientIP4, i) }

// ServerAddr returns the i-th IPv4 address of the server, from 0: 10.2.0.2, 10.2.0.3 and so on.
func ServerAddr(i int) netip.Addr { return nth(ServerIP4, i) }

// ClientAddr6 returns the i-th IPv6 address of the client, from 0: fd00:1::2, fd00:1::3 and so on.
func ClientAddr6(i int) netip.Addr { return nth(ClientIP6, i) }

// ServerAddr6 returns the i-th IPv6 address of the server, from 0: fd00:2::2, fd00:2::3 and so on.
func ServerAddr6(i int) netip.Addr { return nth(ServerIP6, i) }

func nth(first string, i int) netip.Addr {
	a := netip.MustParseAddr(first)
	for range i {
		a = a.Next()
	}
	return a
}

// Errors about names.
var (
	ErrName   = errors.New("name of a lab")
	ErrExists = errors.New("a lab of this name exists")
)

// validName keeps names fit for files and for the eye; the length leaves room in the path of a Unix socket.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.]{0,29}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%w %q: want 1 to 30 letters, digits, dots or underscores", ErrName, name)
	}
	return nil
}

// ownPrefix begins the names that Up makes up: it is followed by the number of the process that owns the lab.
const ownPrefix = "wp"

// ownName returns the i-th name for a lab of this process: wp123, wp123b, wp123c ...
func ownName(i int) string {
	name := ownPrefix + strconv.Itoa(os.Getpid())
	if i > 0 {
		name += "b" + strconv.Itoa(i)
	}
	return name
}

// ownerOf returns the process that a name made by ownName belongs to.
func ownerOf(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, ownPrefix)
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, "b")
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

// namespace is the name `ip netns` lists for a node of a lab.
func namespace(lab string, n Node) string { return lab + "-" + string(n) }

// directoryVariable overrides where control sockets and logs of the links are kept.
const directoryVariable = "WANPAIR_LAB_DIR"

// directory is where control sockets and logs of the links are kept: reachable for the user who built the lab and nobody else.
func directory() string {
	if d := os.Getenv(directoryVariable); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/run/wanpair-lab"
	}
	return filepath.Join(os.TempDir(), "wanpair-lab-"+strconv.Itoa(os.Geteuid()))
}

func socketPath(name string) string { return filepath.Join(directory(), name+".sock") }
func logPath(name string) string    { return filepath.Join(directory(), name+".log") }
