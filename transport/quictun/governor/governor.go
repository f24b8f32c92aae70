package governor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// ErrMoved says that quic-go's fields are not where this package looks for
// them: it was upgraded and this package was not.
var ErrMoved = errors.New("governor: quic-go's congestion controller has moved")

// Governor governs one connection. Its tracer goes into the configuration of
// the connection, and [Governor.Attach] names the connection once it is there;
// before that the connection runs as quic-go has it.
type Governor struct {
	conn     atomic.Pointer[attachment]
	attached atomic.Bool
	failed   atomic.Pointer[error]
	rate     atomic.Uint64 // bytes per second
	whole    atomic.Uint64 // of the group
	window   atomic.Int64  // bytes
	proved   atomic.Bool   // the connection has had the window we set

	// What follows belongs to the connection's goroutine.
	fields *fields
	member *member
	flight int64
	looked time.Time // when it was last looked whether it strays
}

// attachment is the connection and the group its governor belongs to.
type attachment struct {
	conn  *quic.Conn
	group *Group
}

// New returns a governor for one connection.
func New() *Governor { return new(Governor) }

// Tracer is a quic.Config.Tracer for one connection only.
func (g *Governor) Tracer(context.Context, bool, quic.ConnectionID) qlogwriter.Trace { return g }

// AddProducer implements qlogwriter.Trace.
func (g *Governor) AddProducer() qlogwriter.Recorder { return g }

// SupportsSchemas implements qlogwriter.Trace.
func (g *Governor) SupportsSchemas(string) bool { return false }

// Close implements qlogwriter.Recorder.
func (g *Governor) Close() error { return nil }

// Attach names the connection the tracer belongs to, and the group of
// connections to the same peer.
func (g *Governor) Attach(c *quic.Conn, group *Group) { g.conn.Store(&attachment{c, group}) }

// Attached says whether the governor has taken over. Once it has, everything
// it changed in the connection happened before.
func (g *Governor) Attached() bool { return g.attached.Load() }

// Err says why the governor does not govern; nil while it may or does.
func (g *Governor) Err() error {
	if err := g.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Rate is the connection's part of the bandwidth towards the peer in bytes per
// second, 0 when unknown.
func (g *Governor) Rate() uint64 { return g.rate.Load() }

// GroupRate is the bandwidth of the group's connections together.
func (g *Governor) GroupRate() uint64 { return g.whole.Load() }

// Window is the congestion window in bytes, 0 when unknown.
func (g *Governor) Window() uint64 { return uint64(g.window.Load()) }

// RecordEvent implements qlogwriter.Recorder. The connection calls it on its
// own goroutine for the events used here.
func (g *Governor) RecordEvent(e qlogwriter.Event) {
	ev, ok := e.(qlog.MetricsUpdated)
	if !ok {
		return
	}
	a := g.conn.Load()
	if a == nil || g.failed.Load() != nil {
		return
	}
	if g.fields == nil {
		f, err := find(a.conn)
		if err != nil {
			g.failed.Store(&err)
			return
		}
		g.fields = f
		// What came of the bytes so far is not known: begin with the next event.
		g.flight = int64(ev.BytesInFlight)
		g.join(a)
		return
	}
	g.step(a, &ev)
}

// join makes the connection a member of its group until it ends.
func (g *Governor) join(a *attachment) {
	st := a.conn.ConnectionStats()
	mb := a.group.join(g.fields.window(), g.fields.packetSize(), g.flight, int64(st.BytesLost), st.MinRTT)
	g.member = mb
	context.AfterFunc(a.conn.Context(), mb.leave)
}

func (g *Governor) step(a *attachment, ev *qlog.MetricsUpdated) {
	flight := int64(ev.BytesInFlight)
	var v verdict
	if flight > g.flight {
		g.flight = flight
		if w := g.window.Load(); w != 0 && w == int64(ev.CongestionWindow) {
			g.proved.Store(true)
		}
		if !g.attached.Load() {
			g.fields.quieten()
			g.attached.Store(true)
		}
		v = g.member.sent(flight)
	} else {
		g.flight = flight
		st := a.conn.ConnectionStats()
		v = g.member.acked(report{flight, int64(st.BytesLost), st.BytesReceived, g.fields.packetSize(), ev.LatestRTT})
		if now := time.Now(); now.Sub(g.looked) >= strayPeriod {
			g.looked = now
			if g.member.strays() {
				g.member.leave()
				g.join(&attachment{a.conn, NewGroup(rand.Uint64())})
			}
		}
	}
	g.fields.set(v.window, v.startup)
	g.window.Store(v.window)
	g.rate.Store(uint64(v.bandwidth))
	g.whole.Store(uint64(v.whole))
}

// strayPeriod is how often it is looked whether a connection takes another path than the others of its group.
const strayPeriod = time.Second

// fields are the places of a connection's controller.
type fields struct {
	handler    reflect.Value // *sentPacketHandler, its element
	congestion unsafe.Pointer
	holder     *controller // the interface that holds it
	cwnd       *int64
	ssthresh   *int64
	datagram   *int64
	qlogger    *qlogwriter.Recorder
}

// controller is how Go keeps a value of an interface type with methods. Looking
// at it costs less than reflection, which this is checked against once.
type controller struct{ table, data unsafe.Pointer }

// find looks the fields up by name and type.
func find(c *quic.Conn) (f *fields, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrMoved, r)
		}
	}()
	conn := reflect.ValueOf(c).Elem()
	handler := conn.FieldByName("sentPacketHandler")
	if handler.Kind() != reflect.Interface || handler.IsNil() {
		return nil, fmt.Errorf("%w: no sentPacketHandler", ErrMoved)
	}
	f = &fields{handler: handler.Elem().Elem()}
	if err := f.resolve(); err != nil {
		return nil, err
	}
	if f.holder.data != f.congestion {
		return nil, fmt.Errorf("%w: interfaces are not what they were", ErrMoved)
	}
	// Not needed, only cheaper with it.
	if q := conn.FieldByName("qlogger"); q.IsValid() && q.Type() == reflect.TypeFor[qlogwriter.Recorder]() {
		f.qlogger = (*qlogwriter.Recorder)(unsafe.Pointer(q.UnsafeAddr()))
	}
	return f, nil
}

// resolve finds the controller; a connection that moves to another path makes
// a new one.
func (f *fields) resolve() error {
	iface := f.handler.FieldByName("congestion")
	if iface.Kind() != reflect.Interface || iface.IsNil() || iface.Elem().Kind() != reflect.Pointer {
		return fmt.Errorf("%w: no congestion", ErrMoved)
	}
	ctl := iface.Elem().Elem()
	for name, p := range map[string]**int64{
		"congestionWindow": &f.cwnd, "slowStartThreshold": &f.ssthresh, "maxDatagramSize": &f.datagram,
	} {
		v := ctl.FieldByName(name)
		if !v.IsValid() || v.Kind() != reflect.Int64 {
			return fmt.Errorf("%w: no %s", ErrMoved, name)
		}
		*p = (*int64)(unsafe.Pointer(v.UnsafeAddr()))
	}
	f.congestion = iface.Elem().UnsafePointer()
	f.holder = (*controller)(unsafe.Pointer(iface.UnsafeAddr()))
	evenPacer(ctl, *f.datagram)
	return nil
}

// evenPacer gives the pacer the controller's packet size. quic-go v0.65 makes it
// with 1280 whatever the connection's size is; while its budget is between the
// two, the connection's loop spins.
func evenPacer(ctl reflect.Value, size int64) {
	pacer := ctl.FieldByName("pacer")
	if pacer.Kind() != reflect.Pointer || pacer.IsNil() {
		return
	}
	if v := pacer.Elem().FieldByName("maxDatagramSize"); v.IsValid() && v.Kind() == reflect.Int64 {
		if p := (*int64)(unsafe.Pointer(v.UnsafeAddr())); *p < size {
			*p = size
		}
	}
}

func (f *fields) window() int64     { return *f.cwnd }
func (f *fields) packetSize() int64 { return *f.datagram }

// quieten stops the events the connection itself makes of every packet: they
// are not used here and cost more than all the rest. Those of the part that
// handles acknowledgements go on. It may only be done while a packet is being
// sent: the parts that receive look once whether there is a logger and use it
// later.
func (f *fields) quieten() {
	if f.qlogger != nil {
		*f.qlogger = nil
	}
}

// set writes the window. Below the slow start threshold quic-go paces at twice
// the window per round trip, above at five quarters.
func (f *fields) set(window int64, startup bool) {
	if f.holder.data != f.congestion {
		if f.resolve() != nil {
			return
		}
	}
	*f.cwnd = window
	*f.ssthresh = window
	if startup {
		*f.ssthresh = 1 << 60
	}
}

// String shows the model's state, for traces. It must not be called while the
// connection runs, but in tests where time stands still.
func (g *Governor) String() string {
	if g.member == nil {
		return "-"
	}
	m := g.member.group.model
	return fmt.Sprintf("%s bw %.1f Mbit/s minrtt %v headroom %.2f low %.4f high %.4f window %d of %d cap %.1f part %.2f wmax %.0f", m.phase, m.Bandwidth()*8/1e6,
		m.MinRTT().Round(100*time.Microsecond), m.headroom, m.lowLoss.get(), m.highLoss.get(), g.member.window, m.window, m.capacity.get()*8/1e6, m.part(), m.rival.wmax)
}
