package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"wanpair/accel/stats"
)

type topCmd struct {
	statsTarget `embed:""`

	Interval time.Duration `default:"1s" help:"Time between two looks, at least 200ms."`
	Sort     string        `default:"now" enum:"now,lan,wan,gain,age,id,source,destination" help:"Column to sort by: ${enum}."`
	Filter   string        `short:"f" placeholder:"TEXT" help:"Show only flows with this in an address, port or class."`
	Once     bool          `help:"Print one page and end, also done when the output is no terminal."`
}

// topFlows is how many flows are asked for: more than any terminal shows, few enough to be cheap.
const topFlows = 5000

// Run shows the live view until q is pressed or the terminal goes away.
func (c topCmd) Run(out output) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	view := &topView{sort: columnNamed(c.Sort), filter: c.Filter}
	screen, terminal := out.stdout.(*os.File)
	keys, typing := out.stdin.(*os.File)
	if c.Once || !terminal || !typing || !term.IsTerminal(int(screen.Fd())) || !term.IsTerminal(int(keys.Fd())) {
		if err := view.look(ctx, client); err != nil {
			return err
		}
		_, err := io.WriteString(out.stdout, view.plain())
		return err
	}
	restore, err := rawTerminal(int(keys.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer restore()
	fmt.Fprint(screen, "\x1b[?1049h\x1b[?25l")       // another screen, no cursor
	defer fmt.Fprint(screen, "\x1b[?25h\x1b[?1049l") // and back

	var last time.Time
	for ctx.Err() == nil && !view.done {
		if time.Since(last) >= max(c.Interval, 200*time.Millisecond) {
			last = time.Now()
			if !view.paused {
				view.fault = view.look(ctx, client)
			}
			view.changed = true
		}
		if view.changed {
			width, height, err := term.GetSize(int(screen.Fd()))
			if err != nil {
				return fmt.Errorf("terminal: %w", err)
			}
			if width == 0 || height == 0 { // a terminal that does not know its size
				width, height = 80, 24
			}
			if _, err := screen.WriteString(view.frame(width, height)); err != nil {
				return err
			}
			view.changed = false
		}
		pressed, err := readKeys(keys)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		for _, key := range pressed {
			view.press(key)
			view.changed = true
		}
		if view.refilter {
			view.refilter = false
			last = time.Time{}
		}
	}
	return nil
}

// rawTerminal lets keys through one by one; a read without a key returns after a tenth of a second. The function it returns puts everything back.
func rawTerminal(fd int) (restore func(), err error) {
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	restore = func() { _ = term.Restore(fd, old) }
	now, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 0, 1
		err = unix.IoctlSetTermios(fd, unix.TCSETS, now)
	}
	if err != nil {
		restore()
		return nil, err
	}
	return restore, nil
}

// readKeys returns the keys pressed since the last time, none when nothing happened for a tenth of a second.
func readKeys(f *os.File) ([]string, error) {
	var typed [256]byte
	n, err := f.Read(typed[:])
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		return nil, nil
	}
	return splitKeys(string(typed[:n])), err
}

// splitKeys takes apart what a terminal sent: a byte per key, but an escape sequence (ESC [, parameters, a final byte from @ to ~) is one.
func splitKeys(s string) []string {
	var keys []string
	for s != "" {
		n := 1
		if strings.HasPrefix(s, "\x1b[") {
			for n = 2; n < len(s) && (s[n] < '@' || s[n] > '~'); n++ {
			}
			n = min(n+1, len(s))
		}
		keys = append(keys, s[:n])
		s = s[n:]
	}
	return keys
}

// look asks the gateway once.
func (v *topView) look(ctx context.Context, client *statsClient) error {
	var report stats.Report
	if err := client.read(ctx, "/api/v1/stats", &report); err != nil {
		return err
	}
	query := url.Values{"limit": {strconv.Itoa(topFlows)}, "sort": {"lan"}}
	if v.filter != "" {
		query.Set("q", v.filter)
	}
	var flows stats.FlowsReport
	if err := client.read(ctx, "/api/v1/flows?"+query.Encode(), &flows); err != nil {
		return err
	}
	v.update(time.Now(), report, flows)
	return nil
}

// frame is what makes the terminal show the view: home, each line with its rest cleared, and the rest of the screen cleared.
func (v *topView) frame(width, height int) string {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i, line := range v.lines(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if line.bold {
			b.WriteString("\x1b[1m")
		}
		b.WriteString(line.text)
		b.WriteString("\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.String()
}

// plain is the view without a terminal's size or colours.
func (v *topView) plain() string {
	var b bytes.Buffer
	for _, line := range v.lines(160, len(v.flows)+1000) {
		b.WriteString(line.text)
		b.WriteByte('\n')
	}
	return b.String()
}

// press does what a key stands for.
func (v *topView) press(key string) {
	if v.typing {
		v.typed(key)
		return
	}
	switch key {
	case "q", "\x03", "\x04": // also Ctrl-C and Ctrl-D
		v.done = true
	case " ", "p":
		v.paused = !v.paused
	case "r":
		v.reverse = !v.reverse
	case "/", "f":
		v.typing = true
	case "\x1b": // Esc
		v.filter, v.refilter = "", true
	case "\x1b[C", ">", "s":
		v.sort = (v.sort + 1) % len(topColumns())
	case "\x1b[D", "<", "S":
		v.sort = (v.sort + len(topColumns()) - 1) % len(topColumns())
	case "\x1b[B", "j":
		v.first++
	case "\x1b[A", "k":
		v.first = max(0, v.first-1)
	case "\x1b[6~":
		v.first += 20
	case "\x1b[5~":
		v.first = max(0, v.first-20)
	case "g", "\x1b[H":
		v.first = 0
	}
}

// typed edits the filter.
func (v *topView) typed(key string) {
	switch key {
	case "\r", "\n":
		v.typing = false
	case "\x1b", "\x03":
		v.typing, v.filter = false, ""
	case "\x7f", "\b":
		if v.filter != "" {
			v.filter = v.filter[:len(v.filter)-1]
		}
	default:
		if len(key) == 1 && key[0] > ' ' && key[0] < 0x7f && len(v.filter) < 60 {
			v.filter += key
		}
	}
	v.first, v.refilter = 0, true
}

// fits cuts a line to a width, in characters, and replaces what is not printable: names come from the network and could steer the terminal.
func fits(s string, width int) string {
	out := make([]rune, 0, width)
	for _, r := range s {
		if len(out) == width {
			break
		}
		if !strconv.IsPrint(r) {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}

// column pads or cuts a text to a width, to the left or, with right, to the right.
func column(s string, width int, right bool) string {
	s = fits(s, width)
	if right {
		return fmt.Sprintf("%*s", width, s)
	}
	return fmt.Sprintf("%-*s", width, s)
}
