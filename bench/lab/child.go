package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wanpair/bench/link"
)

// The emulator of a lab is this program started again, because it wants a process of its own: real-time threads, no garbage collection.
// Parent and child speak in three ways: the variable below carries the child's orders, a pipe tells the parent that the link is up (or why
// not), and the child's standard input, which the parent never writes to, ends when the parent does.

// childVariable carries a childConfig to the emulator's process.
const childVariable = "WANPAIR_LAB_CHILD"

// readyFD is the child's end of the pipe on which it reports.
const readyFD = 3

// stopPatience bounds how long an emulator may take to end before it is killed.
const stopPatience = 3 * time.Second

var (
	errNoMain  = errors.New("the program did not report as the link's emulator: it must call lab.Main first thing in its main function (in tests: in TestMain)")
	errInChild = errors.New("the process of a link's emulator cannot build labs: the program must call lab.Main first thing in its main function")
)

type childConfig struct {
	Name     string
	Socket   string
	Detached bool // live on when the parent ends
	Link     link.Config
}

// Main does nothing in a process that was started normally. In one that Up started to be a link's emulator it does that and never returns.
// Call it first thing in main.
func Main() {
	orders := os.Getenv(childVariable)
	if orders == "" {
		return
	}
	// The variable stays set: should this process build a lab by mistake, Up refuses.
	if err := runChild(orders); err != nil {
		fmt.Fprintln(os.Stderr, "link emulator:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runChild(orders string) error {
	unix.CloseOnExec(readyFD)
	ready := os.NewFile(readyFD, "ready")
	report := func(err error) {
		text := "ok\n"
		if err != nil {
			text = err.Error() + "\n"
		}
		_, _ = io.WriteString(ready, text) // a parent that is gone is noticed otherwise
		_ = ready.Close()
	}
	var config childConfig
	if err := json.Unmarshal([]byte(orders), &config); err != nil {
		report(err)
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	emulator, err := link.New(config.Link, log)
	if err != nil {
		report(err)
		return err
	}
	listener, err := listenPrivate(config.Socket)
	if err != nil {
		err = errors.Join(err, emulator.Close())
		report(err)
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	abandoned := make(chan struct{})
	if !config.Detached {
		go func() { // ends with the process at the latest
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(abandoned)
			cancel()
		}()
	}
	if err := link.Dedicate(); err != nil && !errors.Is(err, unix.EPERM) { // without the right to it the pumps say so
		log.Warn("the process is not fit for exact timing", "err", err)
	}
	report(nil)
	err = link.Serve(ctx, emulator, listener)
	select {
	case <-abandoned:
	default:
		if !config.Detached {
			return err // the parent asked for the end and removes the rest
		}
	}
	return errors.Join(err, Remove(config.Name))
}

// listenPrivate makes the control socket, for this user only, in the place of one that nobody listens on any more.
func listenPrivate(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, ErrExists)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	const ownerOnly = 0o600
	if err := os.Chmod(path, ownerOnly); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// emulator is a child process that this one has started.
type emulator struct {
	cmd    *exec.Cmd
	stdin  io.Closer // nil when detached
	socket string
	ended  chan struct{} // closed when the process has been waited for
}

// startEmulator starts the child and waits until the link is up.
func startEmulator(ctx context.Context, config childConfig) (*emulator, error) {
	orders, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("orders of the emulator: %w", err)
	}
	logFile, err := os.OpenFile(logPath(config.Name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of the emulator: %w", err)
	}
	defer logFile.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	defer writer.Close()
	// The arguments keep a test binary that does not call Main from running its tests; Main does not look at them.
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Args[0] = "wanpair-link-" + config.Name
	// Asynchronous preemption would interrupt the link's raw system calls every 10 ms.
	cmd.Env = append(os.Environ(), childVariable+"="+string(orders), directoryVariable+"="+directory(), "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = logFile
	cmd.ExtraFiles = []*os.File{writer}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are for the parent
	e := &emulator{cmd: cmd, socket: config.Socket, ended: make(chan struct{})}
	if !config.Detached {
		if e.stdin, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the link's emulator: %w", err)
	}
	go func() { // ends with the child
		_ = cmd.Wait()
		close(e.ended)
	}()
	_ = writer.Close()
	defer context.AfterFunc(ctx, func() { _ = reader.SetReadDeadline(time.Unix(1, 0)) })()
	const maxReport = 4096
	text, err := io.ReadAll(io.LimitReader(reader, maxReport))
	switch said := strings.TrimSpace(string(text)); {
	case err == nil && said == "ok":
		return e, nil
	case err != nil:
		err = fmt.Errorf("the link's emulator did not come up: %w", errors.Join(err, ctx.Err()))
	case said == "":
		err = errNoMain
	default:
		err = errors.New(said)
	}
	e.stop()
	return nil, err
}

// stop ends the emulator and waits for it.
func (e *emulator) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	if (link.Client{Socket: e.socket}).Stop(ctx) == nil {
		select {
		case <-e.ended:
		case <-ctx.Done():
		}
	}
	_ = e.cmd.Process.Kill() // fails when it has ended, as it should have
	<-e.ended
	if e.stdin != nil {
		_ = e.stdin.Close()
	}
}

// stopByPeer ends the emulator behind a control socket when it is the child of another process: politely, then by force.
func stopByPeer(socket string) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return // nobody there
	}
	pid := peerOf(conn)
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	_ = link.Client{Socket: socket}.Stop(ctx)
	if pid <= 1 || pid == os.Getpid() {
		return
	}
	const pause = 5 * time.Millisecond
	for unix.Kill(pid, 0) == nil {
		if ctx.Err() != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			return
		}
		time.Sleep(pause)
	}
}

// emulatorOf is the process that runs the link of a lab, 0 when there is none.
func emulatorOf(name string) int {
	conn, err := net.DialTimeout("unix", socketPath(name), time.Second)
	if err != nil {
		return 0
	}
	defer conn.Close()
	return peerOf(conn)
}

// peerOf is the process that listens at the other end, 0 when that is not known.
func peerOf(conn net.Conn) (pid int) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if c, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(c.Pid)
		}
	})
	return pid
}
