package doctor

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wanpair/accel/config"
	"wanpair/accel/policy"
	"wanpair/accel/stats"
)

// has says whether a finding of that severity has the words in it.
func has(findings []Finding, s Severity, words string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == s && strings.Contains(f.Text, words) })
}

func wants(t *testing.T, what string, findings []Finding, s Severity, words string) {
	t.Helper()
	if !has(findings, s, words) {
		t.Errorf("%s: no %v with %q in %+v", what, s, words, findings)
	}
}

func goodReport() *stats.Report {
	return &stats.Report{
		Version: "v1", Health: "ok", Ready: "ok", Cache: stats.CacheReport{State: "on"}, CreditCapacityBytes: 100,
		Peers: []stats.PeerReport{{Name: "nyc", State: stats.StateUp, Software: "v1"}},
	}
}

func TestGateway(t *testing.T) {
	tests := []struct {
		name   string
		change func(r *stats.Report)
		want   Severity
		words  string
	}{
		{"all is well", func(*stats.Report) {}, OK, "all peers are up"},
		{"unhealthy", func(r *stats.Report) { r.Health = "the store keeps dying" }, Fault, "the store keeps dying"},
		{"other version", func(r *stats.Report) { r.Version, r.Peers[0].Software = "v0", "v0" }, Note, "runs version v0, this program is v1"},
		{"peer down", func(r *stats.Report) { r.Peers[0].State, r.Peers[0].Detail = stats.StateDown, "no answer yet" }, Fault, "peer nyc is down for 0 s: no answer yet"},
		{"peer's version", func(r *stats.Report) { r.Peers[0].Software = "v2" }, Note, "peer nyc runs version v2"},
		{"clock ahead", func(r *stats.Report) { r.Peers[0].ClockSkewSeconds = 61 }, Warning, "differ by 61 s"},
		{"clock behind", func(r *stats.Report) { r.Peers[0].ClockSkewSeconds = -61 }, Warning, "differ by -61 s"},
		{"loss", func(r *stats.Report) { r.Peers[0].LossRatio = 0.06 }, Warning, "6.0 % of the packets"},
		{"frames", func(r *stats.Report) { r.Peers[0].FrameErrors = 1 }, Warning, "did not verify"},
		{"cache", func(r *stats.Report) { r.Cache.State = "disk full" }, Fault, "disk full"},
		{"credit", func(r *stats.Report) { r.CreditBytes = 95 }, Warning, "limits.memory"},
		{"limits", func(r *stats.Report) {
			r.FlowsPassed = []stats.PassedReport{{ReasonReport: stats.ReasonReport{Number: policy.FlowLimit}, Count: 4}}
		}, Warning, "4 connections"},
		{"meant to pass", func(r *stats.Report) {
			r.FlowsPassed = []stats.PassedReport{{ReasonReport: stats.ReasonReport{Number: policy.PassPort}, Count: 4}}
		}, OK, "all peers are up"},
	}
	for _, tt := range tests {
		r := goodReport()
		tt.change(r)
		findings := gateway(t.Context(), Subject{Version: "v1", Gateway: r})
		wants(t, tt.name, findings, tt.want, tt.words)
		if len(findings) != 1 || tt.want > OK && findings[0].Remedy == "" && tt.words != "the store keeps dying" {
			t.Errorf("%s: %+v", tt.name, findings)
		}
	}
	wants(t, "not running", gateway(t.Context(), Subject{Silence: "nothing answers"}), Warning, "nothing answers")
}

func TestLimitingReasonsExist(t *testing.T) {
	for _, name := range limiting() {
		if !slices.ContainsFunc(policy.Reasons(), func(e policy.Explanation) bool { return e.Name == name }) {
			t.Errorf("there is no reason %q", name)
		}
	}
}

func TestCache(t *testing.T) {
	dir := t.TempDir()
	subject := func(dir string, size int64) Subject {
		c := config.Default()
		c.Cache.Dir, c.Cache.SizeBytes = dir, size
		return Subject{Config: c}
	}
	look := func(dir string, size int64) []Finding { return cache(t.Context(), subject(dir, size)) }

	wants(t, "fits", look(dir, 1<<20), OK, "of 1MiB are used")
	wants(t, "not made yet", look(filepath.Join(dir, "a", "b"), 1<<20), OK, "are free on the disk")
	wants(t, "too large", look(dir, 1<<60), Fault, "in all")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "a file", look(file, 1<<20), Fault, "is no directory")
	if used := diskUsage(dir); used < 100_000 || used > 200_000 {
		t.Errorf("disk usage %d", used)
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		wants(t, "not writable", look(dir, 1<<20), Fault, "cannot be written")
	}
}

func TestLimits(t *testing.T) {
	c := config.Default()
	c.Limits.Flows = 1_000_000_000
	c.Cache.MemoryBytes = 1 << 60
	findings := limits(t.Context(), Subject{Config: c})
	wants(t, "descriptors", findings, Warning, "needs about 2000001000 open files")
	wants(t, "memory", findings, Warning, "the machine has")
	wants(t, "buffer", buffer("rmem_max", "212992"), Warning, "net.core.rmem_max is 212992")
	for _, text := range []string{"7340032", "", "x"} {
		if f := buffer("rmem_max", text); f != nil {
			t.Errorf("buffer of %q: %+v", text, f)
		}
	}
	file := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(file, []byte("MemFree:   1 kB\nMemTotal:       2048 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := machineMemory(file); n != 2<<20 || err != nil {
		t.Errorf("memory %d, %v", n, err)
	}
}

func TestRoutes(t *testing.T) {
	c := config.Default()
	c.Intercept = &config.Intercept{Interfaces: []string{"lo"}, Subnets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/9")}}
	c.Peers = []config.Peer{{Name: "nyc", Subnets: []netip.Prefix{netip.MustParsePrefix("127.128.0.0/9")}}}
	wants(t, "peer by the LAN", routes(t.Context(), Subject{Config: c}), Note, "127.128.0.0/9 of peer nyc is reached by the intercepted interface lo")
	c.Intercept.Interfaces = []string{"lan0"}
	wants(t, "own elsewhere", routes(t.Context(), Subject{Config: c}), Warning, "127.0.0.0/9 is reached by lo")
	if got := routes(t.Context(), Subject{Config: config.Default()}); got != nil {
		t.Errorf("nothing intercepted: %+v", got)
	}
	for in, want := range map[string]string{"10.1.0.0/16": "10.1.0.1", "10.1.0.7/32": "10.1.0.7", "fd00::/64": "fd00::1"} {
		if got := sample(netip.MustParsePrefix(in)).String(); got != want {
			t.Errorf("sample of %s is %s, want %s", in, got, want)
		}
	}
}

// box answers probes up to a size like a QUIC server; others it leaves unanswered. With the wrong words it is a stranger.
func box(t *testing.T, largest int, answer func(probe []byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		packet := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(packet)
			if err != nil {
				return
			}
			if n <= largest {
				_, _ = conn.WriteToUDPAddrPort(answer(packet[:n]), from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// negotiate is the version negotiation a QUIC server answers a probe with.
func negotiate(probe []byte) []byte {
	out := []byte{0x80, 0, 0, 0, 0, idLength}
	out = append(out, probe[7+idLength:7+2*idLength]...)
	out = append(out, idLength)
	out = append(out, probe[6:6+idLength]...)
	return append(out, 0, 0, 0, 1)
}

func TestProbes(t *testing.T) {
	r := largestAnswered(t.Context(), box(t, 2000, negotiate), 0)
	if r.largest != fullPayload || r.err != nil || r.rtt <= 0 || r.rtt > time.Minute {
		t.Errorf("full size: %+v", r)
	}
	r = largestAnswered(t.Context(), box(t, 2000, func([]byte) []byte { return []byte("who is there?") }), 0)
	if r.largest != 0 || r.err == nil || !strings.Contains(r.err.Error(), "does not speak QUIC") {
		t.Errorf("stranger: %+v", r)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	closed := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = conn.Close()
	s := Subject{Config: config.Default()}
	wants(t, "closed port", s.judge(config.Peer{Name: "nyc"}, closed, largestAnswered(t.Context(), closed, 0)), Fault, "nothing listens on that UDP port")
}

func TestJudge(t *testing.T) {
	to, nyc := netip.MustParseAddrPort("192.0.2.1:4600"), config.Peer{Name: "nyc"}
	idle, running := Subject{}, Subject{Gateway: goodReport()}
	for _, tt := range []struct {
		s     Subject
		r     result
		want  Severity
		words string
	}{
		{idle, result{largest: fullPayload, rtt: 100 * time.Millisecond}, OK, "answers in 100.0 ms and the way carries UDP payloads of 1452 bytes"},
		{idle, result{largest: smallestPayload, err: syscall.EMSGSIZE}, Note, "payloads of 1200 bytes"},
		{idle, result{err: os.ErrDeadlineExceeded}, Fault, "does not answer"},
		{running, result{err: os.ErrDeadlineExceeded}, Note, "does not answer strangers"},
		{idle, result{err: syscall.ENETUNREACH}, Fault, "network is unreachable"},
	} {
		wants(t, tt.words, tt.s.judge(nyc, to, tt.r), tt.want, tt.words)
	}
}

func FuzzAnswersProbe(f *testing.F) {
	packet, destination, source := versionProbe(smallestPayload)
	if len(packet) != smallestPayload {
		f.Fatalf("probe of %d bytes", len(packet))
	}
	answer := negotiate(packet)
	f.Add(answer)
	f.Add(packet)
	f.Add(answer[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		if answersProbe(b, destination, source) && len(b) < 27 {
			t.Errorf("%x answers", b)
		}
	})
}

func TestPorts(t *testing.T) {
	udp := box(t, 0, negotiate)
	c := config.Default()
	c.Tunnel.Listen = udp
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.Stats.Listen = l.Addr().(*net.TCPAddr).AddrPort()
	findings := ports(t.Context(), c)
	wants(t, "tunnel", findings, Fault, "tunnel.listen: UDP "+udp.String()+" is in use")
	wants(t, "stats", findings, Fault, "stats.listen: TCP "+c.Stats.Listen.String()+" is in use")
}

func TestExamineIsInOrder(t *testing.T) {
	c := config.Default()
	c.Cache.Dir, c.Cache.SizeBytes = t.TempDir(), 1<<20
	var areas []Area
	for _, f := range Examine(t.Context(), Subject{Config: c, Version: "v1", Gateway: goodReport()}) {
		if len(areas) == 0 || areas[len(areas)-1] != f.Area {
			areas = append(areas, f.Area)
		}
	}
	if diff := cmp.Diff([]Area{AreaHost, AreaLimits, AreaCache, AreaGateway}, areas); diff != "" {
		t.Errorf("areas (-want +got):\n%s", diff)
	}
	if w := Worst([]Finding{{Severity: Note}, {Severity: Warning}, {}}); w != Warning {
		t.Errorf("worst is %v", w)
	}
}
