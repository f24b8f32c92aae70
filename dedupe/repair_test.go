package dedupe

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"wanpair/dedupe/token"
)

// lane is one direction of a flow, frame by frame.
type lane struct {
	p        *pair
	from, to *side
	enc      *Encoder
	dec      *Decoder
	frames   []chaosFrame
	sent     uint64
	decoded  uint64
}

func (p *pair) lane(from, to *side) *lane {
	p.flow++
	l := &lane{p: p, from: from, to: to, enc: from.NewEncoder(p.flow), dec: to.NewDecoder(p.flow)}
	l.enc.Share()
	return l
}

// encode makes the next frame and hands it to a transport that has not delivered it yet.
func (l *lane) encode(raw []byte, end bool) int {
	l.p.t.Helper()
	f, err := l.enc.Encode(nil, raw, l.sent, end)
	if err != nil {
		l.p.t.Fatal(err)
	}
	l.sent++
	l.frames = append(l.frames, chaosFrame{raw, f})
	return len(f)
}

// decode delivers the oldest frame.
func (l *lane) decode() error {
	l.p.t.Helper()
	f := l.frames[0]
	out, _, err := l.dec.Decode(nil, f.payload, l.decoded, len(f.raw))
	return l.check(out, err)
}

// resume goes on with a frame that waited.
func (l *lane) resume(late bool) error {
	l.p.t.Helper()
	out, _, err := l.dec.Resume(late)
	return l.check(out, err)
}

func (l *lane) check(out []byte, err error) error {
	l.p.t.Helper()
	if err != nil {
		return err
	}
	if !bytes.Equal(out, l.frames[0].raw) {
		l.p.t.Fatal("wrong bytes")
	}
	l.frames = l.frames[1:]
	l.decoded++
	l.enc.Acked(l.decoded)
	return nil
}

// settle resumes and delivers messages until the frame is through or fails.
func (l *lane) settle(late bool) error {
	l.p.t.Helper()
	for {
		l.p.pump()
		select {
		case <-l.dec.Ready():
		default:
			if !late {
				return ErrWait
			}
		}
		if err := l.resume(late); !errors.Is(err, ErrWait) {
			return err
		}
		late = false
	}
}

// newFeaturePair is newPair with all features.
func newFeaturePair(t testing.TB, a, b Config) *pair {
	p := newPair(t, a, b)
	p.features = AllFeatures
	p.begin()
	return p
}

// lose makes a side lose its copy of the peer's log without knowing: what is in memory is gone.
func lose(s *side) {
	for _, b := range s.store.Open(peer) {
		s.receiver.forget(b.Number)
		s.store.Seal(b, 1<<18)
	}
	s.store.Flush()
	head := s.logs[peer].head.Load()
	s.store.DropBelow(peer, head)
}

func TestAFlowRefersToWhatAnotherHasOnTheWay(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(1, 200_000)
	first, second := p.lane(p.a, p.b), p.lane(p.a, p.b)
	first.encode(data[:100_000], false)
	first.encode(data[100_000:], true)
	if n := second.encode(data, true); n > 1000 {
		t.Fatalf("what another flow has on its way costs %d bytes again", n)
	}
	// The second flow's frame arrives first.
	if err := second.decode(); !errors.Is(err, ErrWait) {
		t.Fatalf("decoded without the bytes: %v", err)
	}
	if err := second.settle(false); !errors.Is(err, ErrWait) {
		t.Fatalf("woken by nothing: %v", err)
	}
	if err := first.decode(); err != nil {
		t.Fatal(err)
	}
	if err := second.settle(false); !errors.Is(err, ErrWait) {
		t.Fatalf("half of the bytes are missing: %v", err)
	}
	if err := first.decode(); err != nil {
		t.Fatal(err)
	}
	if err := second.settle(false); err != nil {
		t.Fatal(err)
	}
	if st := p.b.Stats(); st.Repairs != 0 || st.Waits == 0 {
		t.Errorf("%d repairs, %d waits", st.Repairs, st.Waits)
	}
}

func TestSmallFramesNeverRefToWhatIsOnTheWay(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(2, shortFrameAhead)
	p.lane(p.a, p.b).encode(data, false)
	second := p.lane(p.a, p.b)
	second.encode(data, false)
	if err := second.decode(); err != nil {
		t.Errorf("a small frame waits: %v", err)
	}
}

func TestWithoutTheFeatureNothingRefersAhead(t *testing.T) {
	for _, f := range []Features{{}, {Ahead: true}, {Repair: true}} {
		p := newPair(t, testConfig(""), testConfig(""))
		p.features = f
		p.begin()
		data := noise(3, 100_000)
		p.lane(p.a, p.b).encode(data, false)
		second := p.lane(p.a, p.b)
		second.encode(data, false)
		if err := second.decode(); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// TestTheFlowAheadIsAborted: what a frame waits for will never come.
func TestTheFlowAheadIsAborted(t *testing.T) {
	for _, order := range []string{"frame, abort", "abort, frame"} {
		t.Run(order, func(t *testing.T) {
			p := newFeaturePair(t, testConfig(""), testConfig(""))
			data := noise(4, 600_000) // over block borders
			first, second := p.lane(p.a, p.b), p.lane(p.a, p.b)
			var parts [][]byte
			for rest := data; len(rest) > 0; rest = rest[min(len(rest), 150_000):] {
				parts = append(parts, rest[:min(len(rest), 150_000)])
				first.encode(parts[len(parts)-1], false)
			}
			for _, part := range parts {
				second.encode(part, false)
			}
			if err := first.decode(); err != nil { // one arrives, the others never do
				t.Fatal(err)
			}
			if order == "abort, frame" {
				first.enc.Close(false)
				p.pump()
			}
			for i := range parts {
				err := second.decode()
				if order == "frame, abort" && i == 1 {
					if !errors.Is(err, ErrWait) {
						t.Fatalf("frame 1: %v", err)
					}
					first.enc.Close(false)
				}
				if errors.Is(err, ErrWait) {
					// Where the abort was known before the block was, only the deadline tells.
					if err = second.settle(false); errors.Is(err, ErrWait) {
						err = second.settle(true)
					}
				}
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
			}
			if p.b.Stats().Repairs == 0 {
				t.Error("nothing was repaired: the test shows nothing")
			}
			third := p.lane(p.a, p.b)
			third.encode(data[:150_000], true)
			if err := third.decode(); err != nil {
				t.Errorf("a later flow: %v", err)
			}
		})
	}
}

// TestALostHistoryIsRepaired: the receiver has lost everything, the sender does not know, and no flow ends for it.
func TestALostHistoryIsRepaired(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(5, 1<<20)
	p.send(p.a, p.b, data, 100_000)
	lose(p.b)
	l := p.lane(p.a, p.b)
	asked := 0
	for at := 0; at < len(data); at += 1 << 18 {
		l.encode(data[at:at+1<<18], at+1<<18 == len(data))
	}
	for range 4 {
		err := l.decode()
		if errors.Is(err, ErrWait) {
			asked++
			err = l.settle(false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if asked == 0 {
		t.Fatal("nothing was missing: the test shows nothing")
	}
	if st := p.b.Stats(); st.Repairs != int64(asked) || st.Misses != 0 || st.RepairedBytes < 1<<18 {
		t.Errorf("%+v", st)
	}
	if st := p.a.Stats(); st.RepairKeptBytes != 0 || st.Needs == 0 {
		t.Errorf("%d bytes kept, %d needs", st.RepairKeptBytes, st.Needs)
	}
	// What was missing is known to be, and is stored again.
	p.send(p.a, p.b, data, 100_000)
	if wire := p.send(p.a, p.b, data, 100_000); wire > 5000 {
		t.Errorf("the repeat after the repair costs %d bytes", wire)
	}
}

// TestAWrongHistoryIsRepaired: the receiver's bytes are wrong; first all copies are asked for.
func TestAWrongHistoryIsRepaired(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(6, 200_000)
	p.send(p.a, p.b, data, 100_000)
	for _, b := range p.b.store.Open(peer) {
		b.Bytes()[5000] ^= 1
	}
	l := p.lane(p.a, p.b)
	l.encode(data, true)
	if err := l.decode(); !errors.Is(err, ErrWait) {
		t.Fatalf("wrong bytes: %v", err)
	}
	if err := l.settle(false); err != nil {
		t.Fatal(err)
	}
	if wire := p.send(p.a, p.b, data, 100_000); wire < 200_000 {
		t.Error("the block with wrong bytes was not given up")
	}
}

// TestAHostileAnswerCostsTheFlowOnly lets the sender answer a NEED with anything.
func TestAHostileAnswerCostsTheFlowOnly(t *testing.T) {
	for name, answer := range map[string]func(m *token.Message) []token.Message{
		"not kept": func(m *token.Message) []token.Message {
			return []token.Message{{Kind: token.KindBytes, Flow: m.Flow, Frame: m.Frame}}
		},
		"other offset": func(m *token.Message) []token.Message {
			return []token.Message{{Kind: token.KindBytes, Flow: m.Flow, Frame: m.Frame, Offset: m.Parts[0].Offset + 1, Data: []byte("x")}}
		},
		"more than wanted": func(m *token.Message) []token.Message {
			return []token.Message{{Kind: token.KindBytes, Flow: m.Flow, Frame: m.Frame, Offset: m.Parts[0].Offset, Data: make([]byte, 64000)}}
		},
		"wrong bytes": func(m *token.Message) (out []token.Message) {
			for _, p := range m.Parts {
				for n := 0; p.Length > 0; p.Offset, p.Length = p.Offset+n, p.Length-n {
					n = min(p.Length, 64000)
					out = append(out, token.Message{Kind: token.KindBytes, Flow: m.Flow, Frame: m.Frame, Offset: p.Offset, Data: make([]byte, n)})
				}
			}
			return out
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newFeaturePair(t, testConfig(""), testConfig(""))
			data := noise(7, 50_000)
			p.send(p.a, p.b, data, 50_000)
			lose(p.b)
			l := p.lane(p.a, p.b)
			l.encode(data, true)
			err := l.decode()
			rounds := 0
			for ; errors.Is(err, ErrWait); rounds++ {
				if rounds > 4 {
					t.Fatal("the frame waits for ever")
				}
				for msg, ok := p.take(p.a); ok; msg, ok = p.take(p.a) {
					m, parseErr := token.ParseMessage(msg)
					if parseErr != nil {
						t.Fatal(parseErr)
					}
					if m.Kind != token.KindNeed {
						continue
					}
					for _, a := range answer(&m) {
						for _, flow := range []uint64{m.Flow, m.Flow + 1000} { // and of a flow that does not exist
							a.Flow = flow
							if err := p.b.HandleMessage(a.Append(nil)); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				err = l.resume(false)
			}
			if miss := (*MissError)(nil); !errors.As(err, &miss) && !errors.Is(err, ErrChecksum) {
				t.Fatalf("after %d rounds: %v", rounds, err)
			}
			l.enc.Close(false)
			l.dec.Close()
			p.pump()
			p.send(p.a, p.b, noise(8, 50_000), 50_000)
		})
	}
}

// TestHostileNeeds: a frame's bytes go out three times and not more, and what is asked beyond a frame is refused.
func TestHostileNeeds(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(9, 50_000)
	p.send(p.a, p.b, data, 50_000)
	l := p.lane(p.a, p.b)
	l.encode(data, false)
	need := func(flow, frame uint64, parts ...token.Part) (bytes int) {
		m := token.Message{Kind: token.KindNeed, Flow: flow, Frame: frame, Parts: parts}
		if err := p.a.HandleMessage(m.Append(nil)); err != nil {
			t.Fatal(err)
		}
		for msg, ok := p.take(p.b); ok; msg, ok = p.take(p.b) {
			bytes += len(msg)
		}
		return bytes
	}
	all := token.Part{Offset: 0, Length: 50_000}
	if n := need(p.flow, 7, all); n > 10 {
		t.Errorf("%d bytes for a frame that was never sent", n)
	}
	if n := need(p.flow+50, 0, all); n > 0 {
		t.Errorf("%d bytes for a flow that does not exist", n)
	}
	if n := need(p.flow, 0, token.Part{Offset: 10, Length: 50_000}); n > 10 {
		t.Errorf("%d bytes beyond the frame", n)
	}
	total := 0
	for range 100 {
		total += need(p.flow, 0, all)
	}
	if total > 3*51_000+100*10 {
		t.Errorf("%d bytes for 100 NEEDs of one frame", total)
	}
	l.enc.Close(false)
	l.dec.Close()
}

// TestManyNeeds: a sender whose references keep missing stops making them for a while.
func TestManyNeeds(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(10, 30_000)
	p.send(p.a, p.b, data, 30_000)
	l := p.lane(p.a, p.b)
	warm := l.encode(data, false)
	for range calmNeeds {
		m := token.Message{Kind: token.KindNeed, Flow: p.flow, Frame: 0, Parts: []token.Part{{Offset: 0, Length: 1}}}
		if err := p.a.HandleMessage(m.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	calmed := 0
	for range 2 * calmWindow {
		before := p.a.Stats().Copies
		l.encode(data, false)
		if p.a.Stats().Copies == before {
			calmed++
		}
		if err := l.decode(); err != nil {
			t.Fatal(err)
		}
	}
	if warm > 1000 || calmed < calmWindow-1 || calmed > calmWindow+1 {
		t.Errorf("%d of %d frames referred to nothing, want %d", calmed, 2*calmWindow, calmWindow)
	}
}

// TestKeptBytesAreBounded: beyond the budget frames go out without being kept.
func TestKeptBytesAreBounded(t *testing.T) {
	a := testConfig("")
	a.RepairBytes = 1 << 20
	p := newFeaturePair(t, a, testConfig(""))
	data := noise(11, 1<<18)
	p.send(p.a, p.b, data, 1<<18)
	l := p.lane(p.a, p.b)
	for range 20 {
		l.encode(data, false)
	}
	if n := p.a.Stats().RepairKeptBytes; n > 1<<20 || n < 1<<19 {
		t.Errorf("%d bytes are kept, at most %d", n, 1<<20)
	}
	for range 20 {
		if err := l.decode(); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.a.Stats().RepairKeptBytes; n != 0 {
		t.Errorf("%d bytes are kept of frames that are acknowledged", n)
	}
}

// TestSessionEndsWhileAFrameWaits leaves nothing behind.
func TestSessionEndsWhileAFrameWaits(t *testing.T) {
	p := newFeaturePair(t, testConfig(""), testConfig(""))
	data := noise(12, 100_000)
	first, second := p.lane(p.a, p.b), p.lane(p.a, p.b)
	first.encode(data, false)
	second.encode(data, false)
	if err := second.decode(); !errors.Is(err, ErrWait) {
		t.Fatal(err)
	}
	p.begin()
	if err := second.resume(true); !errors.Is(err, ErrSession) {
		t.Errorf("after the session's end: %v", err)
	}
	second.dec.Close()
	for _, l := range []*lane{first, second} {
		l.enc.Close(false)
	}
	if n := p.a.Stats().RepairKeptBytes; n != 0 {
		t.Errorf("%d bytes are kept of a session that has ended", n)
	}
	p.send(p.a, p.b, data, 100_000)
}

// FuzzMessages hands anything to a codec in the middle of a session: it answers with an error or not, and the flows that go on are right.
func FuzzMessages(f *testing.F) {
	for _, m := range []token.Message{
		{Kind: token.KindNeed, Flow: 2, Frame: 0, Parts: []token.Part{{Offset: 0, Length: 10}, {Offset: 20, Length: 5}}},
		{Kind: token.KindBytes, Flow: 3, Frame: 0, Offset: 5, Data: []byte("abc")},
		{Kind: token.KindSeal, Block: 0, Length: 100}, {Kind: token.KindRetract, Ranges: []token.Range{{First: 0, Count: 9}}},
		{Kind: token.KindTail, Tail: 1 << 18}, {Kind: token.KindReady},
	} {
		f.Add(m.Append(nil), uint64(1))
	}
	f.Fuzz(func(t *testing.T, msg []byte, seed uint64) {
		p := newFeaturePair(t, testConfig(""), testConfig(""))
		r := rand.New(rand.NewPCG(seed, 3))
		data := noise(13, 60_000)
		first, second := p.lane(p.a, p.b), p.lane(p.a, p.b)
		first.encode(data, false)
		second.encode(data, false)
		_ = second.decode()
		to := p.b
		if r.IntN(2) == 0 {
			to = p.a
		}
		_ = to.HandleMessage(msg)
		fails := func(err error) bool {
			miss := (*MissError)(nil)
			return errors.As(err, &miss) || errors.Is(err, ErrChecksum)
		}
		err := first.decode()
		if errors.Is(err, ErrWait) {
			err = first.settle(true)
		}
		if err != nil && !fails(err) {
			t.Fatal(err)
		}
		if len(second.frames) > 0 {
			if err := second.settle(true); err != nil && !fails(err) && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrWait) {
				t.Fatal(err)
			}
		}
	})
}
